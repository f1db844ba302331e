//! Deformable RoI pooling with the fully connected layers that predict its offsets and mask, as one layer.

use half::{bf16, f16};
use rstest::rstest;
use std::collections::BTreeMap;
use warpconv::reference::{self, Array};
use warpconv::{
    DType, DeformRoiPool, DeformRoiPoolPack, DeformRoiPoolSpec, Device, Element, Error, FullyConnected, Inputs, Layer, MemoryFormat,
    Parameter, PlanRequest, RoIs, Stream, Tensor, Workspace, WorkspaceMemory,
};

use crate::common::bits;

/// `count` values k/64 that repeat after 37.
fn steps(shape: &[usize], seed: usize) -> Parameter {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 29 + seed * 11) % 37) as f32 / 64.0 - 0.28125).collect();
    Parameter::new(shape, &values).unwrap()
}

fn pack_is_its_stages<T: Element>(format: MemoryFormat, modulated: bool, hidden: bool) {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let x = Tensor::<T>::rand(&device, [2, 8, 9, 10], format, 4).unwrap();
    let rois =
        RoIs::from_slice(&device, 2, &[[0.0, 1.0, 2.0, 30.0, 17.0], [1.0, -8.0, 3.0, 36.0, 30.0], [1.0, 4.0, 4.0, 9.0, 9.0]]).unwrap();
    let spec = DeformRoiPoolSpec { spatial_scale: 0.25, sampling_ratio: 2, gamma: 0.5, ..DeformRoiPoolSpec::new([2, 3]) };
    let layers = |outputs: usize, seed: usize| {
        let sizes = if hidden { vec![48, 16, 12, outputs] } else { vec![48, outputs] };
        let layer = |(i, pair): (usize, &[usize])| FullyConnected {
            weight: steps(&[pair[1], pair[0]], seed + i),
            bias: i.is_multiple_of(2).then(|| steps(&[pair[1]], seed + 7)),
        };
        sizes.windows(2).enumerate().map(layer).collect::<Vec<_>>()
    };
    let (offset_fc, mask_fc) = (layers(12, 1), layers(6, 3));
    let mut pack = DeformRoiPoolPack::new(spec, offset_fc.clone()).unwrap();
    if modulated {
        pack = pack.with_mask(mask_fc.clone()).unwrap();
    }
    let inputs = Inputs::new(&x).rois(&rois);
    let packed = pack.forward(&inputs).unwrap();

    // by hand, on the host between the stages
    let pool = DeformRoiPool::new(spec).unwrap();
    let pooled = pool.forward(&inputs).unwrap().to_vec().unwrap();
    let connect = |layers: &[FullyConnected], sigmoid: bool| {
        let mut values = pooled.clone();
        for (i, FullyConnected { weight, bias }) in layers.iter().enumerate() {
            let [outputs, inputs] = *weight.shape() else { unreachable!() };
            let filter = Parameter::new(&[outputs, inputs, 1, 1], weight.values()).unwrap();
            let last = i + 1 == layers.len();
            let activation = match (last, sigmoid) {
                (false, _) => warpconv::Activation::Relu,
                (true, true) => warpconv::Activation::Sigmoid,
                (true, false) => warpconv::Activation::None,
            };
            let mut layer = warpconv::Conv2d::new(warpconv::Conv2dSpec { activation, ..Default::default() }, filter).unwrap();
            if let Some(bias) = bias {
                layer = layer.with_bias(bias.clone()).unwrap();
            }
            let x = Tensor::from_slice_in_memory_order(&device, [3, inputs, 1, 1], MemoryFormat::ChannelsLast, &values).unwrap();
            values = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
        }
        values
    };
    let offset = Tensor::from_slice(&device, [3, 2, 2, 3], &connect(&offset_fc, false)).unwrap();
    let mask = Tensor::from_slice(&device, [3, 1, 2, 3], &connect(&mask_fc, true)).unwrap();
    let staged = if modulated { inputs.offset(&offset).mask(&mask) } else { inputs.offset(&offset) };
    let staged = pool.forward(&staged).unwrap();
    assert_eq!(bits(&packed), bits(&staged));
    assert_ne!(bits(&packed), bits(&pool.forward(&inputs).unwrap()), "something moved");

    // against the oracle, from the names of the JSON form
    let spec = pack.spec();
    let parameters: BTreeMap<String, Array> = AnyNamed(&pack).arrays();
    let mut tensors = parameters;
    tensors.insert("x".into(), Array::from_slice(x.shape(), &x.to_vec().unwrap()).unwrap());
    let rois_values = [0.0f32, 1.0, 2.0, 30.0, 17.0, 1.0, -8.0, 3.0, 36.0, 30.0, 1.0, 4.0, 4.0, 9.0, 9.0];
    tensors.insert("rois".into(), Array::from_slice([3, 5], &rois_values).unwrap());
    let (expected, _) = reference::layer(&spec, &tensors).unwrap();
    // rounded offsets move samples on a rough image: stage by stage is the strict comparison
    let room = if T::DTYPE == DType::F32 { 1e-4 } else { 64.0 * T::DTYPE.unit_roundoff() };
    for (own, expected) in packed.to_vec().unwrap().iter().zip(expected.data()) {
        assert!((f64::from(own.to_f32()) - expected).abs() <= room, "{} {own:?} {expected}", T::DTYPE);
    }
}

/// The parameters of a layer as the oracle takes them.
struct AnyNamed<'a>(&'a DeformRoiPoolPack);

impl AnyNamed<'_> {
    fn arrays(&self) -> BTreeMap<String, Array> {
        let any = warpconv::AnyLayer::DeformRoiPoolPack(self.0.clone());
        any.parameters().into_iter().map(|(name, p)| (name.to_string(), Array::from_slice(p.shape(), p.values()).unwrap())).collect()
    }
}

#[rstest]
fn a_pack_is_its_stages(#[values(false, true)] modulated: bool, #[values(false, true)] hidden: bool) {
    for format in MemoryFormat::ALL {
        pack_is_its_stages::<f32>(format, modulated, hidden);
        pack_is_its_stages::<f16>(format, modulated, hidden);
        pack_is_its_stages::<bf16>(format, modulated, hidden);
    }
}

#[test]
fn a_pack_runs_in_its_workspace_and_refuses_what_does_not_fit() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let spec = DeformRoiPoolSpec::new([2, 2]);
    let weight = |outputs: usize, inputs: usize| FullyConnected { weight: steps(&[outputs, inputs], 0), bias: None };
    let pack = DeformRoiPoolPack::new(spec, vec![weight(8, 12)]).unwrap().with_mask(vec![weight(4, 12)]).unwrap();
    let request = PlanRequest::new([1, 3, 6, 6]).rois(2);
    let plan = pack.plan::<f32>(&device, &request).unwrap();
    assert_eq!((plan.workspace_bytes(), plan.explain().stages.len()), (3 * 256, 4));
    let x = Tensor::<f32>::rand(&device, [1, 3, 6, 6], MemoryFormat::Contiguous, 1).unwrap();
    let rois = RoIs::from_slice(&device, 1, &[[0.0, 0.0, 0.0, 4.0, 4.0]; 2]).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), MemoryFormat::Contiguous).unwrap();
    let inputs = Inputs::new(&x).rois(&rois);
    let refused = plan.run(&inputs, &mut y, Workspace::none(), &Stream::default_of(&device));
    assert!(matches!(refused, Err(Error::Workspace { needed: 768, got: 0 })));
    let mut memory = WorkspaceMemory::new(&device, plan.workspace_bytes()).unwrap();
    let allocations = device.allocations();
    plan.run(&inputs, &mut y, memory.workspace(), &Stream::default_of(&device)).unwrap();
    assert_eq!(device.allocations(), allocations);
    assert_eq!(y.to_vec().unwrap(), pack.forward(&inputs).unwrap().to_vec().unwrap());
    let none = RoIs::from_slice(&device, 1, &[]).unwrap();
    assert_eq!(pack.forward(&Inputs::new(&x).rois(&none)).unwrap().shape(), [0, 3, 2, 2]);

    assert!(matches!(DeformRoiPoolPack::new(spec, vec![]), Err(Error::Attribute { .. })));
    let narrow = DeformRoiPoolPack::new(spec, vec![weight(8, 11)]).unwrap();
    assert!(matches!(narrow.plan::<f32>(&device, &request), Err(Error::Shape { name: "x", .. })));
    let short = DeformRoiPoolPack::new(spec, vec![weight(6, 12)]).unwrap();
    assert!(matches!(short.plan::<f32>(&device, &request), Err(Error::Shape { name: "offset", .. })));
    let flat = FullyConnected { weight: steps(&[96], 0), bias: None };
    assert!(matches!(DeformRoiPoolPack::new(spec, vec![flat]), Err(Error::Rank { .. })));
}
