//! A layer of any kind, for what is known only at run time: JSON files, networks, the program.

use super::Residual;
use super::{Conv2d, Conv2dSpec, Inputs, Layer, Parameter, Plan, PlanRequest};
use crate::error::{Error, Result};
use crate::numerics::Contract;
use crate::tensor::TensorView;
use crate::{DType, Device, Element, Shape, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The spec of a layer of any kind. Its JSON form is `{"op": ..., "attrs": {...}}`.
///
/// ```
/// use warpconv::LayerSpec;
/// let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"padding": "same", "activation": "gelu"}}"#)?;
/// assert_eq!(spec.op(), "conv2d");
/// let unknown = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"strides": 2}}"#).unwrap_err();
/// assert!(unknown.to_string().contains("unknown field `strides`"));
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "attrs", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum LayerSpec {
    /// [`Conv2d`]
    Conv2d(Conv2dSpec),
}

/// What a layer of some kind is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Tensors that belong to the layer.
    pub parameters: &'static [&'static str],
    /// Tensors that it reads at each run.
    pub inputs: &'static [&'static str],
}

impl LayerSpec {
    /// Every op that this build knows.
    pub const OPS: &'static [&'static str] = &["conv2d"];

    /// Reads `{"op": ..., "attrs": {...}}`.
    ///
    /// # Errors
    /// [`Error::Parse`] for malformed JSON, an unknown op or key, or a value of the wrong type.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::Parse { source_name: "layer".into(), message: e.to_string() })
    }

    /// The op's name in JSON.
    pub fn op(&self) -> &'static str {
        match self {
            LayerSpec::Conv2d(_) => "conv2d",
        }
    }

    /// The names of its parameters and inputs.
    pub fn signature(&self) -> Signature {
        match self {
            LayerSpec::Conv2d(_) => Signature { parameters: &["weight", "bias", "slope"], inputs: &["x", "residual"] },
        }
    }
}

impl<'a, T: Element> Inputs<'a, T> {
    /// The inputs of the layer of `spec` by the names of [`LayerSpec::signature`].
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`].
    pub fn from_named(spec: &LayerSpec, tensors: &BTreeMap<&str, TensorView<'a, T>>) -> Result<Self> {
        let (op, known) = (spec.op(), spec.signature().inputs);
        if let Some(name) = tensors.keys().find(|name| !known.contains(name)) {
            return Err(Error::UnexpectedTensor { op, name: name.to_string(), known: known.join(", ") });
        }
        let names = tensors.keys().copied().collect::<Vec<_>>().join(", ");
        let missing = |name: &str| Error::MissingTensor { op, name: name.into(), available: format!(" (there are: {names})") };
        match spec {
            LayerSpec::Conv2d(_) => Ok(Self {
                x: *tensors.get("x").ok_or_else(|| missing("x"))?,
                residual: tensors.get("residual").map_or(Residual::None, |view| Residual::Tensor(*view)),
            }),
        }
    }
}

/// A layer of any kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AnyLayer {
    /// [`Conv2d`]
    Conv2d(Conv2d),
}

impl AnyLayer {
    /// Builds the layer from its spec and its named parameters, as a safetensors file holds them.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`] when the names are not those of
    /// [`LayerSpec::signature`]; what the layer itself refuses.
    pub fn new(spec: LayerSpec, mut parameters: BTreeMap<String, Parameter>) -> Result<Self> {
        let (op, known) = (spec.op(), spec.signature().parameters);
        if let Some(name) = parameters.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(Error::UnexpectedTensor { op, name: name.clone(), known: known.join(", ") });
        }
        let names = parameters.keys().cloned().collect::<Vec<_>>().join(", ");
        let missing = |name: &str| Error::MissingTensor { op, name: name.into(), available: format!(" (there are: {names})") };
        match spec {
            LayerSpec::Conv2d(attributes) => {
                let mut layer = Conv2d::new(attributes, parameters.remove("weight").ok_or_else(|| missing("weight"))?)?;
                if let Some(bias) = parameters.remove("bias") {
                    layer = layer.with_bias(bias)?;
                }
                if let Some(slope) = parameters.remove("slope") {
                    layer = layer.with_slope(slope)?;
                }
                layer.check_complete()?;
                Ok(AnyLayer::Conv2d(layer))
            }
        }
    }

    /// What the numerics contract demands of its results in `dtype` for inputs of shape `x`. The bit-for-bit rule is on when
    /// the layer is linear; whether it holds depends on the values too.
    ///
    /// # Errors
    /// When the layer cannot be applied to such an input.
    pub fn contract(&self, dtype: DType, x: Shape) -> Result<Contract> {
        match self {
            AnyLayer::Conv2d(layer) => layer.contract(dtype, x),
        }
    }

    /// The weight's shape, which with the spec determines parameters and FLOPs.
    pub fn weight_shape(&self) -> &[usize] {
        match self {
            AnyLayer::Conv2d(layer) => layer.weight().shape(),
        }
    }
}

impl Layer for AnyLayer {
    fn spec(&self) -> LayerSpec {
        match self {
            AnyLayer::Conv2d(layer) => layer.spec(),
        }
    }

    fn output_shape(&self, x: Shape) -> Result<Shape> {
        match self {
            AnyLayer::Conv2d(layer) => layer.output_shape(x),
        }
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        match self {
            AnyLayer::Conv2d(layer) => layer.plan(device, request),
        }
    }

    fn forward<T: Element>(&self, inputs: &Inputs<'_, T>) -> Result<Tensor<T>> {
        match self {
            AnyLayer::Conv2d(layer) => layer.forward(inputs),
        }
    }
}
