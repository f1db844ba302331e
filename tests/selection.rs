//! Which kernel a layer gets: the family that is made for it, less than IEEE precision only when asked for, the fastest when
//! measured. (tests/depthwise.rs and tests/grouped.rs list the layers of their families.)
#![cfg(feature = "host")]

use rstest::rstest;
use warpconv::cases::{Problem, kinds};
use warpconv::half::f16;
use warpconv::{
    ChosenBy, Conv2d, Conv2dSpec, Device, Error, Explanation, Focus, FocusSpec, Inputs, Layer, MemoryFormat, Padding, Parameter,
    PlanRequest, Precision, Shape, Tensor,
};

fn dense(c_in: usize, c_out: usize, kernel: usize, stride: usize, dilation: usize) -> Conv2d {
    let padding = Padding::all(dilation * (kernel / 2));
    let spec = Conv2dSpec { stride: [stride; 2], padding, dilation: [dilation; 2], ..Default::default() };
    let values = vec![0.25f32; c_out * c_in * kernel * kernel];
    Conv2d::new(spec, Parameter::new(&[c_out, c_in, kernel, kernel], &values).unwrap()).unwrap()
}

#[rstest]
#[case::resnet50_stem([8, 3, 224, 224], 64, 7, 2, 1, "channels", "pixels")]
#[case::resnet50_reduce([8, 256, 56, 56], 64, 1, 1, 1, "matrix", "planes")]
#[case::resnet50_spatial([8, 64, 56, 56], 64, 3, 1, 1, "vectors", "patches")]
#[case::resnet50_expand([8, 64, 56, 56], 256, 1, 1, 1, "vectors", "planes")]
#[case::resnet50_downsample([8, 256, 56, 56], 512, 1, 2, 1, "vectors", "pixels")]
#[case::resnet50_expand_14([8, 256, 14, 14], 1024, 1, 1, 1, "vectors", "planes")]
#[case::resnet50_spatial_28([8, 128, 28, 28], 128, 3, 1, 1, "vectors", "patches")]
#[case::resnet50_spatial_14([8, 256, 14, 14], 256, 3, 1, 1, "vectors", "patches")]
#[case::resnet50_strided([8, 256, 28, 28], 256, 3, 2, 1, "vectors", "pixels")]
#[case::resnet50_reduce_14([1, 1024, 14, 14], 256, 1, 1, 1, "vectors", "planes")]
#[case::resnet50_last([8, 512, 7, 7], 512, 3, 1, 1, "vectors", "patches")]
#[case::vgg16([1, 512, 28, 28], 512, 3, 1, 1, "vectors", "patches")]
#[case::mobilenet_v2_expand([1, 24, 56, 56], 144, 1, 1, 1, "matrix", "planes")]
#[case::mobilenet_v2_project([1, 144, 56, 56], 24, 1, 1, 1, "vectors", "planes")]
#[case::convnext_t_pointwise([1, 96, 56, 56], 384, 1, 1, 1, "vectors", "planes")]
#[case::convnext_t_stem([1, 3, 224, 224], 96, 4, 4, 1, "channels", "pixels")]
#[case::deeplab_v3_aspp_6([1, 2048, 65, 65], 256, 3, 1, 6, "vectors", "patches")]
#[case::deeplab_v3_aspp_18([1, 2048, 65, 65], 256, 3, 1, 18, "vectors", "pixels")]
#[case::resnet101_os8([1, 512, 65, 65], 512, 3, 1, 4, "vectors", "patches")]
fn dense_layers_take_tensor_cores(
    #[case] x: Shape,
    #[case] c_out: usize,
    #[case] kernel: usize,
    #[case] stride: usize,
    #[case] dilation: usize,
    #[case] gather: &str,
    #[case] contiguous: &str,
) {
    let (device, layer) = (Device::host().unwrap(), dense(x[1], c_out, kernel, stride, dilation));
    for (format, gather) in [(MemoryFormat::ChannelsLast, gather), (MemoryFormat::Contiguous, contiguous)] {
        let plan = layer.plan::<f16>(&device, &PlanRequest::new(x).format(format)).unwrap();
        assert!(plan.explain().kernel.starts_with(&format!("conv_gemm_f16_{gather}_")), "{format}: {}", plan.explain());
    }
}

#[test]
fn tf32_is_taken_only_where_it_is_allowed() {
    let (device, layer) = (Device::host().unwrap(), dense(64, 64, 3, 1, 1));
    let request = PlanRequest::new([8, 64, 56, 56]).format(MemoryFormat::ChannelsLast);
    let kernel = |request: &PlanRequest| layer.plan::<f32>(&device, request).unwrap().explain().kernel;
    assert!(kernel(&request).starts_with("conv_gemm_f32_"), "{}", kernel(&request));
    let allowed = request.clone().precision(Precision::Tf32);
    assert!(kernel(&allowed).starts_with("conv_gemm_tf32_"), "{}", kernel(&allowed));
    let refused = layer.plan::<f32>(&device, &request.kernel("conv_gemm_tf32_vectors_64x64")).unwrap_err();
    assert!(matches!(&refused, Error::NoKernel { reasons, .. } if reasons.contains("PlanRequest::precision")), "{refused}");
    // it has nothing to say about 16-bit types
    assert!(layer.plan::<f16>(&device, &allowed).unwrap().explain().kernel.starts_with("conv_gemm_f16_"));
}

#[test]
fn tf32_rounds_to_nearest_what_it_multiplies() {
    let device = Device::host().unwrap();
    // 1 + 2^-11 is half way between two tf32 numbers and goes up, to 1 + 2^-10; 1 + 2^-12 goes down
    for (value, rounded) in [(1.0 + 2f32.powi(-11), 1.0 + 2f32.powi(-10)), (1.0 + 2f32.powi(-12), 1.0), (-3.0, -3.0)] {
        for [x, weight] in [[value, 1.0], [1.0, value]] {
            let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 4, 1, 1], &[weight, 0.0, 0.0, 0.0]).unwrap()).unwrap();
            let x = Tensor::from_slice(&device, [1, 4, 1, 1], &[x; 4]).unwrap().to_format(MemoryFormat::ChannelsLast).unwrap();
            let request = PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast).precision(Precision::Tf32);
            let plan = layer.plan::<f32>(&device, &request.kernel("conv_gemm_tf32_vectors_64x64")).unwrap();
            let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
            let stream = warpconv::Stream::default_of(&device);
            plan.run(&Inputs::new(&x), &mut y, warpconv::Workspace::none(), &stream).unwrap();
            assert_eq!(y.to_vec().unwrap(), [rounded], "{value}");
        }
    }
}

#[test]
fn tuning_measures_every_kernel_that_applies() {
    let (device, layer) = (Device::host().unwrap(), dense(8, 8, 3, 1, 1));
    let x = Tensor::<f16>::randn(&device, [1, 8, 9, 9], MemoryFormat::ChannelsLast, 3).unwrap();
    let request = PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast);
    let tuned = layer.tune(&request, &Inputs::new(&x)).unwrap();
    let applicable = tuned.plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok()).count();
    assert_eq!(tuned.times.len(), applicable);
    assert!(tuned.times.is_sorted_by_key(|&(_, time)| time));
    assert_eq!(tuned.plan.explain().kernel, tuned.times[0].0);
    assert_eq!(tuned.plan.explain().chosen_by, ChosenBy::Measurement(applicable));
}

/// Every kind of layer, and among them those of Focus and SubPixelConv2d that cannot run as one launch: a candidate that is said to
/// apply runs when it is asked for, one that is said not to apply is refused for that reason, and so is a name that is none.
#[test]
fn asking_for_a_kernel_by_name_gives_it_or_an_error() {
    let device = Device::host().unwrap();
    let (mut asked, mut pairs) = (0, 0);
    for kind in kinds() {
        for index in 0..6 {
            let problem = Problem::of_kinds(&[kind], 18, index);
            let own = problem.layer.signature().parameters;
            let shapes = problem.shapes.iter().filter(|(name, _)| own.contains(&name.as_str()));
            let outline = problem.layer.outline(shapes.map(|(name, shape)| (name.clone(), shape.clone()))).unwrap();
            let mut request = PlanRequest::new(problem.x().unwrap()).format(MemoryFormat::ALL[index as usize % 2]);
            if let Some(rois) = problem.shapes.get("rois") {
                request = request.rois(rois[0]);
            }
            let plan = |name: &str| outline.explain::<f16>(&device, &request.clone().kernel(name));
            let explanation: Explanation = outline.explain::<f16>(&device, &request).unwrap();
            let op = problem.layer.op();
            for choice in &explanation.choices {
                match (&choice.verdict, plan(choice.kernel)) {
                    (Ok(_), Ok(plan)) => assert_eq!((plan.kernel, plan.chosen_by), (choice.kernel, ChosenBy::Request), "{op}"),
                    (Err(reason), Err(Error::NoKernel { reasons, .. })) => assert!(reasons.contains(reason), "{op}: {reasons}"),
                    (verdict, plan) => panic!("{op}: {} {verdict:?}, but {plan:?}", choice.kernel),
                }
                asked += 1;
                pairs += usize::from(choice.kernel == "pair" && choice.verdict.is_ok());
            }
            for wrong in ["nonsense", "cast_f16_to_f32"] {
                let refused = plan(wrong);
                assert!(matches!(&refused, Err(Error::NoKernel { reasons, .. }) if reasons.contains(wrong)), "{op}: {wrong} {refused:?}");
            }
        }
    }
    assert!(asked > 1000 && pairs > 10, "{asked} {pairs}");
}

/// Two launches are measured as every other candidate.
#[test]
fn tuning_measures_two_launches_too() {
    let device = Device::host().unwrap();
    let focus = Focus::new(FocusSpec::default(), Parameter::new(&[4, 12, 1, 1], &[0.25f32; 48]).unwrap()).unwrap();
    let x = Tensor::<f16>::randn(&device, [1, 3, 8, 8], MemoryFormat::ChannelsLast, 3).unwrap();
    let tuned = focus.tune(&PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast), &Inputs::new(&x)).unwrap();
    assert!(tuned.times.iter().any(|&(kernel, _)| kernel == "pair"), "{:?}", tuned.times);
}
