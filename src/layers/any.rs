//! A layer of any kind, for programs that learn only at run time which kind it is: from a JSON
//! file, from a network, or from the command line.

use super::{AdaptiveAvgPool2d, AdaptiveAvgPool2dSpec, AvgPool2d, AvgPool2dSpec, MaxPool2d, MaxPool2dSpec};
use super::{Conv2d, Conv2dSpec, ConvTranspose2d, ConvTranspose2dSpec, Focus, FocusSpec};
use super::{DeformConv2d, DeformConv2dBlock, DeformConv2dBlockSpec, DeformConv2dSpec};
use super::{DeformRoiPool, DeformRoiPoolPack, DeformRoiPoolSpec, PsRoiPool, PsRoiPoolSpec, RoiAlign, RoiAlignSpec, RoiPool, RoiPoolSpec};
use super::{DepthwiseSeparableConv2d, DepthwiseSeparableSpec, SpatiallySeparableConv2d, SpatiallySeparableSpec};
use super::{Explanation, Inputs, Layer, Parameter, Plan, PlanRequest, Residual, RoisView};
use super::{PixelShuffle, PixelShuffleSpec, PixelUnshuffle, SubPixelConv2d, SubPixelConv2dSpec};
use super::{UpsampleBilinear, UpsampleBilinearSpec, attributes};
use crate::error::{Error, Result};
use crate::numerics::Contract;
use crate::tensor::TensorView;
use crate::text::{did_you_mean, listed, parse_json, with_hint};
use crate::{DType, Device, Element, Shape, Tensor};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::BTreeMap;

/// The names of the tensors that belong to a kind of layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The parameters: tensors that belong to the layer.
    pub parameters: &'static [&'static str],
    /// The inputs: tensors that the layer reads at each run.
    pub inputs: &'static [&'static str],
}

/// Shapes of tensors by name.
pub type Shapes = Vec<(&'static str, Vec<usize>)>;

/// What the program, the conformance corpus and the tests need of each kind of layer, beyond
/// [`Layer`].
pub(crate) trait Kind: Layer + Sized {
    /// The attributes of this kind of layer.
    type Spec;
    /// The names of the layer's tensors.
    const SIGNATURE: Signature;

    /// Builds the layer from its spec and its parameters. It takes every parameter that
    /// [`Kind::SIGNATURE`] names.
    fn build(spec: Self::Spec, parameters: &mut Named) -> Result<Self>;

    /// As [`AnyLayer::parameters`].
    fn parameters(&self) -> Vec<(&'static str, &Parameter)>;

    /// As [`LayerSpec::typical_parameters`].
    fn typical_parameters(spec: &Self::Spec, x: Shape, weight: Option<Shape>) -> Shapes;

    /// As [`AnyLayer::contract`].
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract>;
}

/// A layer's parameters by name.
pub(crate) struct Named {
    op: &'static str,
    parameters: BTreeMap<String, Parameter>,
    /// The names of all parameters that were given, for error messages.
    names: String,
}

impl Named {
    /// Accepts the parameters of a layer of this signature.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] for a name that it does not know.
    fn of(op: &'static str, signature: Signature, parameters: BTreeMap<String, Parameter>) -> Result<Self> {
        let known = signature.parameters;
        if let Some(name) = parameters.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(unexpected(op, name, known));
        }
        let names = available(parameters.keys().map(String::as_str));
        Ok(Self { op, parameters, names })
    }

    /// Takes a parameter that must be there.
    pub fn take(&mut self, name: &'static str) -> Result<Parameter> {
        self.optional(name).ok_or_else(|| Error::MissingTensor { op: self.op, name: name.into(), available: self.names.clone() })
    }

    pub fn optional(&mut self, name: &'static str) -> Option<Parameter> {
        self.parameters.remove(name)
    }
}

/// A layer as it is in JSON, with its attributes not yet read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a layer, {\"op\": ..., \"attrs\": {...}}")]
struct Tagged {
    op: String,
    #[serde(default)]
    attrs: Option<attributes::Unread>,
}

impl<'de> Deserialize<'de> for LayerSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_tagged(Tagged::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Defines the enums over all kinds of layers from a list: for each kind the layer type, its spec
/// and its name in JSON. Everything that depends on the kind is dispatched here.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($spec:ident) = $op:literal;)*) => {
        /// The spec of a layer of any kind. Its JSON form is `{"op": ..., "attrs": {...}}`. Without
        /// `attrs`, all attributes have their defaults.
        ///
        /// ```
        /// use warpconv::LayerSpec;
        /// let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"padding": "same", "activation": "gelu"}}"#)?;
        /// assert_eq!(spec.op(), "conv2d");
        /// let unknown = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"strides": 2}}"#).unwrap_err().to_string();
        /// assert!(unknown.contains("unknown field `strides`") && unknown.ends_with("did you mean `stride`?"), "{unknown}");
        /// # Ok::<(), warpconv::Error>(())
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        #[serde(tag = "op", content = "attrs")]
        #[non_exhaustive]
        pub enum LayerSpec {
            $($(#[$doc])* #[serde(rename = $op)] $kind($spec),)*
        }

        impl LayerSpec {
            /// The names of all ops that this build knows.
            pub const OPS: &'static [&'static str] = &[$($op),*];

            /// The spec that JSON describes. An error says what is wrong.
            fn from_tagged(Tagged { op, attrs }: Tagged) -> Result<Self, String> {
                match op.as_str() {
                    $($op => attributes::of($op, attrs.unwrap_or_default()).map(LayerSpec::$kind),)*
                    _ => {
                        let known = Self::OPS.join("`, `");
                        Err(with_hint(format!("unknown variant `{op}`, expected one of `{known}`")))
                    }
                }
            }

            /// The name of the op in JSON.
            pub fn op(&self) -> &'static str {
                match self {
                    $(LayerSpec::$kind(_) => $op,)*
                }
            }

            /// The names of the layer's parameters and inputs.
            pub fn signature(&self) -> Signature {
                match self {
                    $(LayerSpec::$kind(_) => <$kind as Kind>::SIGNATURE,)*
                }
            }

            /// Shapes of the parameters that the layer needs for an input of shape `x`. They stand
            /// in when a user gives none: as many output as input channels, and a 3x3 filter unless
            /// `weight` says otherwise. There is no bias.
            pub fn typical_parameters(&self, x: Shape, weight: Option<Shape>) -> Shapes {
                match self {
                    $(LayerSpec::$kind(spec) => <$kind as Kind>::typical_parameters(spec, x, weight),)*
                }
            }
        }

        /// A layer of any kind.
        #[derive(Debug, Clone)]
        #[non_exhaustive]
        pub enum AnyLayer {
            $($(#[$doc])* $kind($kind),)*
        }

        impl AnyLayer {
            fn build(spec: LayerSpec, named: &mut Named) -> Result<Self> {
                match spec {
                    $(LayerSpec::$kind(spec) => <$kind as Kind>::build(spec, named).map(AnyLayer::$kind),)*
                }
            }

            /// The layer's parameters by the names of [`LayerSpec::signature`]. Optional parameters
            /// that the layer does not have are left out.
            pub fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
                match self {
                    $(AnyLayer::$kind(layer) => layer.parameters(),)*
                }
            }

            /// The bound that the numerics contract sets for the layer's results in `dtype` on the
            /// inputs of `request`. For a linear layer it includes the bit-for-bit rule; whether
            /// that rule applies also depends on the values.
            ///
            /// # Errors
            /// When the layer cannot be applied to such an input.
            pub fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
                match self {
                    $(AnyLayer::$kind(layer) => Kind::contract(layer, dtype, request),)*
                }
            }
        }

        $(impl FromParameters for $kind {
            type Spec = $spec;
            fn signature(_: &$spec) -> Signature {
                <$kind as Kind>::SIGNATURE
            }
            fn from_parameters(spec: $spec, parameters: BTreeMap<String, Parameter>) -> Result<Self> {
                <$kind as Kind>::build(spec, &mut Named::of($op, <$kind as Kind>::SIGNATURE, parameters)?)
            }
        })*

        impl Layer for AnyLayer {
            fn forget_host_weights(&mut self) {
                match self {
                    $(AnyLayer::$kind(layer) => layer.forget_host_weights(),)*
                }
            }

            fn spec(&self) -> LayerSpec {
                match self {
                    $(AnyLayer::$kind(layer) => layer.spec(),)*
                }
            }

            fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
                match self {
                    $(AnyLayer::$kind(layer) => layer.output_shape(request),)*
                }
            }

            fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
                match self {
                    $(AnyLayer::$kind(layer) => layer.plan(device, request),)*
                }
            }

            fn forward<T: Element>(&self, inputs: &Inputs<'_, T>) -> Result<Tensor<T>> {
                match self {
                    $(AnyLayer::$kind(layer) => layer.forward(inputs),)*
                }
            }
        }
    };
}

kinds! {
    /// [`Conv2d`]
    Conv2d(Conv2dSpec) = "conv2d";
    /// [`ConvTranspose2d`]
    ConvTranspose2d(ConvTranspose2dSpec) = "conv_transpose2d";
    /// [`PixelShuffle`]
    PixelShuffle(PixelShuffleSpec) = "pixel_shuffle";
    /// [`PixelUnshuffle`]
    PixelUnshuffle(PixelShuffleSpec) = "pixel_unshuffle";
    /// [`SubPixelConv2d`]
    SubPixelConv2d(SubPixelConv2dSpec) = "sub_pixel_conv";
    /// [`Focus`]
    Focus(FocusSpec) = "focus";
    /// [`UpsampleBilinear`]
    UpsampleBilinear(UpsampleBilinearSpec) = "upsample_bilinear";
    /// [`MaxPool2d`]
    MaxPool2d(MaxPool2dSpec) = "max_pool2d";
    /// [`AvgPool2d`]
    AvgPool2d(AvgPool2dSpec) = "avg_pool2d";
    /// [`AdaptiveAvgPool2d`]
    AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec) = "adaptive_avg_pool2d";
    /// [`DepthwiseSeparableConv2d`]
    DepthwiseSeparableConv2d(DepthwiseSeparableSpec) = "depthwise_separable";
    /// [`SpatiallySeparableConv2d`]
    SpatiallySeparableConv2d(SpatiallySeparableSpec) = "spatially_separable";
    /// [`DeformConv2d`]
    DeformConv2d(DeformConv2dSpec) = "deform_conv2d";
    /// [`DeformConv2dBlock`]
    DeformConv2dBlock(DeformConv2dBlockSpec) = "deform_conv2d_block";
    /// [`RoiAlign`]
    RoiAlign(RoiAlignSpec) = "roi_align";
    /// [`RoiPool`]
    RoiPool(RoiPoolSpec) = "roi_pool";
    /// [`PsRoiPool`]
    PsRoiPool(PsRoiPoolSpec) = "ps_roi_pool";
    /// [`DeformRoiPool`]
    DeformRoiPool(DeformRoiPoolSpec) = "deform_roi_pool";
    /// [`DeformRoiPoolPack`]
    DeformRoiPoolPack(DeformRoiPoolSpec) = "deform_roi_pool_pack";
}

impl LayerSpec {
    /// Reads a layer from JSON: `{"op": ..., "attrs": {...}}`.
    ///
    /// # Errors
    /// [`Error::Parse`] for malformed JSON, an unknown op or key, or a value of the wrong type.
    pub fn from_json(text: &str) -> Result<Self> {
        const SOURCE: &str = "layer";
        Self::from_tagged(parse_json(SOURCE, text)?).map_err(|message| Error::Parse { source_name: SOURCE.into(), message })
    }
}

/// The end of [`Error::MissingTensor`]'s message: which tensors there are.
fn available<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names = listed(names);
    if names.is_empty() { " (there is no tensor at all)".into() } else { format!(" (there are: {names})") }
}

/// The error for a tensor that the op does not know.
pub(crate) fn unexpected(op: &'static str, name: &str, known: &[&str]) -> Error {
    let known = if known.is_empty() { "no such tensors".into() } else { known.join(", ") + &did_you_mean(name, known) };
    Error::UnexpectedTensor { op, name: name.into(), known }
}

impl<'a, T: Element> Inputs<'a, T> {
    /// The inputs of a layer of `spec`, by the names of [`LayerSpec::signature`]. `rois` are an
    /// argument of their own, since they are f32 whatever the dtype.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`].
    pub fn from_named(spec: &LayerSpec, tensors: &BTreeMap<&str, TensorView<'a, T>>, rois: Option<RoisView<'a>>) -> Result<Self> {
        let (op, known) = (spec.op(), spec.signature().inputs);
        let given = || tensors.keys().copied().chain(rois.map(|_| "rois"));
        if let Some(name) = given().find(|name| !known.contains(name)) {
            return Err(unexpected(op, name, known));
        }
        let missing = |name: &str| Error::MissingTensor { op, name: name.into(), available: available(given()) };
        if known.contains(&"rois") && rois.is_none() {
            return Err(missing("rois"));
        }
        Ok(Self {
            x: *tensors.get("x").ok_or_else(|| missing("x"))?,
            residual: tensors.get("residual").map_or(Residual::None, |view| Residual::Tensor(*view)),
            offset: tensors.get("offset").map(|view| (*view).into()),
            mask: tensors.get("mask").map(|view| (*view).into()),
            rois,
        })
    }
}

/// A layer of which only the shapes are known. That is enough to check it, and to say what shape
/// its output has and which kernel would run.
#[derive(Debug, Clone)]
pub struct Outline(AnyLayer);

impl LayerSpec {
    /// The outline of a layer with parameters of these shapes, by the names of
    /// [`LayerSpec::signature`]. It needs no memory for the values of the parameters.
    ///
    /// ```
    /// use warpconv::{Device, LayerSpec};
    /// let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"padding": 1}}"#)?;
    /// let outline = spec.outline([("weight", vec![65536, 65536, 3, 3])])?; // 154 GB in f32
    /// let x = [1, 65536, 8, 8].into();
    /// assert_eq!(outline.output_shape(&x)?, [1, 65536, 8, 8]);
    /// println!("{}", outline.explain::<f32>(&Device::best()?, &x)?);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`AnyLayer::new`].
    pub fn outline<N: Into<String>>(&self, shapes: impl IntoIterator<Item = (N, Vec<usize>)>) -> Result<Outline> {
        let outline = |(name, shape): (N, Vec<usize>)| Ok((name.into(), Parameter::outline(&shape)?));
        AnyLayer::new(*self, shapes.into_iter().map(outline).collect::<Result<_>>()?).map(Outline)
    }
}

impl Outline {
    /// As [`Layer::output_shape`].
    ///
    /// # Errors
    /// When the layer cannot be applied to such an input.
    pub fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        self.0.output_shape(request)
    }

    /// As [`AnyLayer::parameter_shapes`].
    pub fn parameter_shapes(&self) -> Shapes {
        self.0.parameter_shapes()
    }

    /// Which kernel a plan would run, and why.
    ///
    /// # Errors
    /// As [`Layer::plan`].
    pub fn explain<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Explanation> {
        Ok(self.0.plan::<T>(device, request)?.explanation)
    }
}

/// A layer that can be built from a spec and named parameters. Each kind of layer is one, and so is
/// [`AnyLayer`], whose spec says which kind it is.
pub trait FromParameters: Layer {
    /// The layer's attributes.
    type Spec;

    /// The names of the layer's parameters and inputs.
    fn signature(spec: &Self::Spec) -> Signature;

    /// Builds the layer of these attributes from parameters with the names of its [`Signature`].
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`] for other names; what the layer
    /// itself refuses.
    fn from_parameters(spec: Self::Spec, parameters: BTreeMap<String, Parameter>) -> Result<Self>;
}

impl FromParameters for AnyLayer {
    type Spec = LayerSpec;

    fn signature(spec: &LayerSpec) -> Signature {
        spec.signature()
    }

    fn from_parameters(spec: LayerSpec, parameters: BTreeMap<String, Parameter>) -> Result<Self> {
        AnyLayer::new(spec, parameters)
    }
}

impl AnyLayer {
    /// Builds the layer from its spec and its named parameters. The names are those of a
    /// safetensors file.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`] when the names are not those of
    /// [`LayerSpec::signature`]; what the layer itself refuses.
    pub fn new(spec: LayerSpec, parameters: BTreeMap<String, Parameter>) -> Result<Self> {
        Self::build(spec, &mut Named::of(spec.op(), spec.signature(), parameters)?)
    }

    /// The shapes of the layer's parameters. Together with the spec they determine the layer's
    /// cost.
    pub fn parameter_shapes(&self) -> Shapes {
        self.parameters().into_iter().map(|(name, parameter)| (name, parameter.shape().to_vec())).collect()
    }
}
