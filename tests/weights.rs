//! Weights of a trained model: batch normalisations folded into every layer that has weights, and layers from parts of a file.

use std::collections::BTreeMap;
use warpconv::io::{TensorFile, save};
use warpconv::reference::{self, Array};
use warpconv::{
    AnyLayer, AnyTensor, BatchNorm, ChannelOrder, Conv2d, ConvTranspose2d, DeformConv2d, DeformConv2dBlock, Device, Error, ErrorKind,
    Focus, FromParameters, Inputs, Layer, LayerSpec, MemoryFormat, Parameter, SpatiallySeparableConv2d, SubPixelConv2d, Tensor, TensorView,
};

fn values(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

fn parameters(shapes: &[(&str, &[usize])]) -> BTreeMap<String, Parameter> {
    let parameter = |index: usize, shape: &[usize]| Parameter::new(shape, &values(shape.iter().product(), 0.7 + index as f32)).unwrap();
    shapes.iter().enumerate().map(|(index, (name, shape))| (name.to_string(), parameter(index, shape))).collect()
}

fn norm(channels: usize) -> BatchNorm {
    let variance = (0..channels).map(|i| 0.25 + i as f32).collect();
    BatchNorm { gamma: values(channels, 1.1), beta: values(channels, 1.9), mean: values(channels, 0.3), variance, epsilon: 1e-3 }
}

/// y of the layer, normalised by the definition.
fn normalised(y: &Tensor<f32>, norm: &BatchNorm) -> Vec<f64> {
    let [gamma, beta, mean, variance] =
        [&norm.gamma, &norm.beta, &norm.mean, &norm.variance].map(|values| Array::from_slice([values.len()], values).unwrap());
    let y = Array::from_slice(y.shape(), &y.to_vec().unwrap()).unwrap();
    reference::batch_norm(&y, &gamma, &beta, &mean, &variance, norm.epsilon.into()).unwrap().into_data()
}

/// Compares a layer with a folded normalisation with the layer and then the normalisation.
fn check<L: FromParameters<Spec: Copy>>(
    json: &str,
    spec_of: impl Fn(LayerSpec) -> L::Spec,
    shapes: &[(&str, &[usize])],
    x: [usize; 4],
    extra: &[(&str, [usize; 4])],
    fold: impl Fn(L, &BatchNorm) -> warpconv::Result<L>,
) {
    let device = Device::host().unwrap();
    let layer = L::from_parameters(spec_of(LayerSpec::from_json(json).unwrap()), parameters(shapes)).unwrap();
    let x = Tensor::<f32>::randn(&device, x, MemoryFormat::Contiguous, 3).unwrap();
    let extra: Vec<_> =
        extra.iter().map(|(name, shape)| (*name, Tensor::<f32>::rand(&device, *shape, MemoryFormat::Contiguous, 4).unwrap())).collect();
    let mut named: BTreeMap<&str, TensorView<'_, f32>> = extra.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
    named.insert("x", x.view());
    let inputs = Inputs::from_named(&layer.spec(), &named, None).unwrap();
    let y = layer.forward(&inputs).unwrap();
    let channels = y.shape()[1];
    // planned before it is folded: packed weights of before must not be used again
    let expected = normalised(&y, &norm(channels));
    let folded = fold(layer, &norm(channels)).unwrap();
    let got = folded.forward(&inputs).unwrap().to_vec().unwrap();
    let largest = expected.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert!((f64::from(*got) - expected).abs() <= 1e-5 * largest, "{json}: element {index} is {got}, not {expected}");
    }
    assert!(matches!(fold(folded, &norm(channels + 1)), Err(Error::Shape { name: "gamma", .. })), "{json}");
}

macro_rules! spec {
    ($kind:ident) => {
        |spec| match spec {
            LayerSpec::$kind(spec) => spec,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn every_layer_with_weights_takes_a_batch_norm() {
    let x = [2, 6, 5, 4];
    for groups in [1, 2, 3] {
        let json = format!(r#"{{"op": "conv2d", "attrs": {{"padding": 1, "groups": {groups}}}}}"#);
        check(&json, spec!(Conv2d), &[("weight", &[12, 6 / groups, 3, 3]), ("bias", &[12])], x, &[], Conv2d::fold_batch_norm);
        let json = format!(r#"{{"op": "conv_transpose2d", "attrs": {{"stride": 2, "padding": 1, "groups": {groups}}}}}"#);
        let shapes: [(&str, &[usize]); 2] = [("weight", &[6, 4, 3, 2]), ("bias", &[4 * groups])];
        check(&json, spec!(ConvTranspose2d), &shapes, x, &[], ConvTranspose2d::fold_batch_norm);
        let json = format!(r#"{{"op": "deform_conv2d", "attrs": {{"padding": 1, "groups": {groups}}}}}"#);
        let offset = [("offset", [2, 18, 5, 4])];
        check(&json, spec!(DeformConv2d), &[("weight", &[6, 6 / groups, 3, 3])], x, &offset, DeformConv2d::fold_batch_norm);
    }
    let block: [(&str, &[usize]); 5] = [
        ("weight", &[4, 6, 3, 3]),
        ("offset_weight", &[18, 6, 3, 3]),
        ("offset_bias", &[18]),
        ("mask_weight", &[9, 6, 3, 3]),
        ("bias", &[4]),
    ];
    let json = r#"{"op": "deform_conv2d_block", "attrs": {"deform": {"padding": 1}}}"#;
    check(json, spec!(DeformConv2dBlock), &block, x, &[], DeformConv2dBlock::fold_batch_norm);
    let json = r#"{"op": "focus", "attrs": {"padding": 1}}"#;
    check(json, spec!(Focus), &[("weight", &[5, 24, 3, 3])], [2, 6, 8, 6], &[], Focus::fold_batch_norm);
    let json = r#"{"op": "spatially_separable", "attrs": {"padding": [1, 1, 1, 1]}}"#;
    let separable: [(&str, &[usize]); 4] =
        [("col_weight", &[4, 6, 3, 1]), ("row_weight", &[5, 4, 1, 3]), ("col_bias", &[4]), ("row_bias", &[5])];
    check(json, spec!(SpatiallySeparableConv2d), &separable, x, &[], SpatiallySeparableConv2d::fold_batch_norm);
    for mode in ["crd", "dcr"] {
        let json = format!(r#"{{"op": "sub_pixel_conv", "attrs": {{"padding": 1, "r": 2, "mode": "{mode}"}}}}"#);
        let shapes: [(&str, &[usize]); 2] = [("weight", &[12, 6, 3, 3]), ("bias", &[12])];
        check(&json, spec!(SubPixelConv2d), &shapes, x, &[], SubPixelConv2d::fold_shuffled_batch_norm);
    }
}

/// Between the two stages: by hand, the stages one after the other.
#[test]
fn a_batch_norm_in_the_middle_of_a_separable_layer_is_before_the_padding() {
    let device = Device::host().unwrap();
    let spec = LayerSpec::from_json(r#"{"op": "spatially_separable", "attrs": {"padding": [1, 1, 1, 1]}}"#).unwrap();
    let shapes: [(&str, &[usize]); 2] = [("col_weight", &[4, 3, 3, 1]), ("row_weight", &[5, 4, 1, 3])];
    let layer = SpatiallySeparableConv2d::from_parameters(spec!(SpatiallySeparableConv2d)(spec), parameters(&shapes)).unwrap();
    let x = Tensor::<f32>::randn(&device, [1, 3, 6, 5], MemoryFormat::Contiguous, 5).unwrap();
    let mid = layer.column().forward(&Inputs::new(&x)).unwrap();
    let mid: Vec<f32> = normalised(&mid, &norm(4)).into_iter().map(|value| value as f32).collect();
    let mid = Tensor::from_slice(&device, [1, 4, 6, 5], &mid).unwrap();
    let expected = layer.row().forward(&Inputs::new(&mid)).unwrap().to_vec().unwrap();
    let got = layer.fold_mid_batch_norm(&norm(4)).unwrap().forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    assert!(got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() < 1e-5), "{got:?} {expected:?}");
}

#[test]
fn a_batch_norm_before_the_shuffle_is_that_of_the_convolution() {
    let json = r#"{"op": "sub_pixel_conv", "attrs": {"r": 2}}"#;
    let LayerSpec::SubPixelConv2d(spec) = LayerSpec::from_json(json).unwrap() else { panic!("{json}") };
    assert_eq!(spec.order, ChannelOrder::Crd);
    let layer = SubPixelConv2d::from_parameters(spec, parameters(&[("weight", &[8, 3, 1, 1])])).unwrap();
    let conv = layer.conv().clone().fold_batch_norm(&norm(8)).unwrap();
    let folded = layer.fold_batch_norm(&norm(8)).unwrap();
    assert_eq!(folded.conv().weight(), conv.weight());
    assert_eq!(folded.conv().bias(), conv.bias());
}

#[test]
fn layers_come_from_parts_of_a_file() {
    let device = Device::host().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensor = |shape: [usize; 4]| AnyTensor::from(Tensor::from_slice(&device, shape, &values(shape.iter().product(), 0.9)).unwrap());
    let (weight, other) = (tensor([4, 3, 3, 3]), tensor([2, 4, 1, 1]));
    let tensors = [("backbone.layer1.0.weight", &weight), ("backbone.layer1.0.extra", &other), ("backbone.layer10.weight", &other)];
    save(&path, &tensors).unwrap();
    let file = TensorFile::from_bytes(std::fs::read(&path).unwrap()).unwrap();
    let scope = file.prefix("backbone").prefix("layer1.0");
    assert_eq!(scope.name("weight"), "backbone.layer1.0.weight");
    assert_eq!(scope.names().collect::<Vec<_>>(), ["extra", "weight"]);
    assert_eq!(file.prefix("backbone.layer1").names().collect::<Vec<_>>(), ["0.extra", "0.weight"], "a prefix ends at a dot");
    assert_eq!(file.prefix("").names().count(), 3);
    assert!(scope.contains("weight") && !scope.contains("bias"));

    let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"padding": 1}}"#).unwrap();
    let any: AnyLayer = scope.layer(spec).unwrap();
    let conv: Conv2d = scope.layer(spec!(Conv2d)(spec)).unwrap();
    assert_eq!(conv.weight(), &file.parameter("backbone.layer1.0.weight").unwrap());
    assert_eq!(any.parameters(), [("weight", conv.weight())]);

    let error = file.prefix("backbone.layer2").layer::<AnyLayer>(spec).unwrap_err();
    assert!(error.to_string().contains("backbone.layer2 of safetensors in memory: conv2d needs weight"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Usage);
    let missing = scope.batch_norm(1e-5).unwrap_err().to_string();
    assert!(missing.contains("backbone.layer1.0.bias"), "{missing}");
}

#[test]
fn a_batch_norm_comes_from_a_file_by_pytorchs_names() {
    let names = ["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"];
    let data: Vec<Vec<u8>> = (0..4).map(|i| values(3, 1.0 + i as f32).iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = names
        .iter()
        .zip(&data)
        .map(|(name, data)| (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3], data).unwrap()));
    let file = TensorFile::from_bytes(safetensors::serialize(views, None).unwrap()).unwrap();
    let norm = file.prefix("bn1").batch_norm(1e-5).unwrap();
    assert_eq!((norm.gamma, norm.beta, norm.mean), (values(3, 1.0), values(3, 2.0), values(3, 3.0)));
    assert_eq!((norm.variance, norm.epsilon), (values(3, 4.0), 1e-5));
}
