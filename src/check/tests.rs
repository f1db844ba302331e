use super::*;
use crate::Shape;
use crate::numerics::Report;
use std::collections::BTreeSet;

const LAYER: &str = r#"{"op": "conv2d", "attrs": {"padding": 1}}"#;

/// A 3x3 filter of ones on an image of ones: every output counts the taps that hit the image.
fn box_filter(x: Shape) -> (Arrays, Array) {
    let [n, c, h, w] = x;
    let ones = |shape: &[usize]| Array::zeros(shape).unwrap().map(|_| 1.0);
    let tensors = BTreeMap::from([("x".to_string(), ones(&x)), ("weight".to_string(), ones(&[2, c, 3, 3]))]);
    let hits = |i: usize, size: usize| (i.saturating_sub(1)..=i + 1).filter(|&j| j < size).count();
    let counts = (0..n * 2 * h * w).map(|i| (c * hits(i / w % h, h) * hits(i % w, w)) as f64).collect();
    (tensors, Array::new([n, 2, h, w], counts).unwrap())
}

/// With one element changed.
fn at(index: usize, array: &Array, change: impl Fn(f64) -> f64) -> Array {
    let mut data = array.data().to_vec();
    data[index] = change(data[index]);
    Array::new(array.shape(), data).unwrap()
}

fn case(change: impl FnOnce(&mut Arrays, &mut Array)) -> Case {
    let (mut tensors, mut output) = box_filter([2, 3, 4, 5]);
    change(&mut tensors, &mut output);
    let scale = output.data().to_vec();
    Case::new(LayerSpec::from_json(LAYER).unwrap(), &tensors, output, scale).unwrap()
}

fn check(case: &Case, kernels: Kernels) -> Vec<Run> {
    let device = Device::host_with(crate::HostOptions::default()).unwrap();
    let mut runs = Vec::new();
    for dtype in DType::ALL {
        for x in MemoryFormat::ALL {
            for y in MemoryFormat::ALL {
                runs.extend(case.check(dtype, x, y, kernels, &device));
            }
        }
    }
    runs
}

#[test]
fn a_right_layer_passes_in_every_way() {
    let case = case(|_, _| ()).margins([1, 3], [2, 1]);
    let chosen = check(&case, Kernels::Chosen);
    let all = check(&case, Kernels::All);
    assert!(all.len() > chosen.len());
    for run in chosen.iter().chain(&all) {
        let report = run.outcome.as_ref().unwrap_or_else(|failure| panic!("{run:?}: {failure}"));
        assert_eq!((report.elements, report.exact), (80, 80));
    }
}

#[test]
fn a_wrong_element_is_found() {
    let wrong = case(|_, output| *output = at(47, output, |v| v + 1.0));
    for run in check(&wrong, Kernels::All) {
        let failure = run.outcome.unwrap_err();
        assert!(matches!(failure, Failure::Values { report: Report { failures: 1, .. }, position: [1, 0, 1, 2] }), "{failure:?}");
        let text = failure.to_string();
        assert!(text.contains("got 27.0, expected 28.0 bit for bit"), "{text}");
    }
}

/// The acceptance run is of 1000 cases. Views that are not aligned do not count: their plan may launch another kernel.
#[rstest::rstest]
fn a_thousand_random_problems_reach_every_kernel(#[values(1, 2)] seed: u64) {
    let device = Device::host_with(crate::HostOptions::default()).unwrap();
    let mut missing: BTreeSet<&str> = kernel_names().collect();
    assert!(missing.len() > 200);
    for problem in (0..1000).map(|index| crate::cases::Problem::random(seed, index)) {
        let empty = problem.output_shape().unwrap().contains(&0);
        if empty || !problem.is_packed() || missing.is_empty() {
            continue;
        }
        for (_, kernels) in runs_of(&problem, &device).unwrap() {
            kernels.iter().for_each(|name| {
                missing.remove(name);
            });
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// A layer of several launches that are chosen one by one is run as it is.
#[test]
fn a_layer_without_a_choice_is_run_too() {
    let spec = LayerSpec::from_json(r#"{"op": "deform_roi_pool_pack", "attrs": {"output_size": 2, "spatial_scale": 1.0}}"#).unwrap();
    let problem = Problem::new(spec, &[("x", &[1, 3, 5, 5]), ("rois", &[2, 5]), ("offset_fc1_weight", &[8, 12])]);
    let runs = runs_of(&problem, &Device::host().unwrap()).unwrap();
    assert!(runs.len() == 12 && runs.iter().all(|(_, kernels)| kernels.len() == 1), "{runs:?}");
}

/// A layer of 1x1 with one weight, on one pixel, in f32 and strict precision or tf32 beside it.
fn one_product(x: f64, weight: f64, output: f64) -> Vec<Run> {
    let one = |value: f64| Array::new([1, 1, 1, 1], vec![value]).unwrap();
    let tensors = BTreeMap::from([("x".to_string(), one(x)), ("weight".to_string(), one(weight))]);
    let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {}}"#).unwrap();
    let case = Case::new(spec, &tensors, one(output), vec![output.abs()]).unwrap();
    let (format, device) = (MemoryFormat::ChannelsLast, Device::host().unwrap());
    case.check(DType::F32, format, format, Kernels::All, &device)
}

#[test]
fn tf32_is_compared_bit_for_bit_only_where_it_rounds_no_operand() {
    let of_tf32 = |run: &&Run| run.kernel.contains("tf32");
    let runs = one_product(1024.5, 1.0, 1024.5);
    assert!(runs.iter().all(|run| run.outcome.is_ok()), "{runs:?}");
    let exact = |run: &Run| run.outcome.as_ref().unwrap().exact;
    assert!(runs.iter().filter(of_tf32).count() > 0 && runs.iter().all(|run| exact(run) == usize::from(!of_tf32(&run))), "{runs:?}");
    let runs = one_product(0.75, 0.5, 0.375);
    assert!(runs.iter().all(|run| exact(run) == 1), "{runs:?}");
    let wrong = one_product(0.75, 0.5, 0.3752);
    assert!(wrong.iter().filter(of_tf32).all(|run| run.outcome.is_err()), "{wrong:?}");
}

/// A subnormal number with more digits than tf32 has.
#[test]
fn subnormals_on_tensor_cores_are_a_class_of_their_own() {
    let digits = f64::from(f32::from_bits(0x2fff));
    let scale = 2f64.powi(100);
    let runs = one_product(digits, scale, digits * scale);
    let open = |run: &Run| run.open_subnormals;
    assert!(runs.iter().all(|run| run.outcome.is_ok() && open(run) == run.kernel.contains("tf32")), "{runs:?}");
    assert!(runs.iter().any(open));
    // what is wrong is no matter of subnormals
    assert!(one_product(digits, scale, digits * scale + scale).iter().all(|run| run.outcome.is_err() && !open(run)));
}

#[test]
fn a_wrong_shape_is_found() {
    let wrong = case(|_, output| *output = Array::new([2, 2, 5, 4], output.data().to_vec()).unwrap());
    assert!(check(&wrong, Kernels::Chosen).iter().all(|run| matches!(run.outcome, Err(Failure::Shape { .. }))));
}

#[test]
fn inputs_that_a_dtype_does_not_hold_widen_the_bound() {
    // 0.3 is no f16: 9 * 3 * (its rounding) is far beyond the accumulation's bound
    let rounded = case(|tensors, output| {
        let scaled = |array: &Array| array.map(|v| v * f64::from(0.3f32));
        tensors.insert("x".into(), scaled(&tensors["x"]));
        *output = scaled(output);
    });
    for run in check(&rounded, Kernels::Chosen) {
        let report = run.outcome.unwrap();
        assert_eq!(report.exact, 0);
    }
}

#[test]
fn refusals() {
    let device = Device::host_with(crate::HostOptions::default()).unwrap();
    let (mut tensors, _) = box_filter([1, 3, 4, 4]);
    let attempt = |layer: &str, tensors: &Arrays| refusal(layer, tensors, DType::F16, MemoryFormat::ChannelsLast, &device);
    assert!(matches!(attempt(LAYER, &tensors), Err(Failure::Accepted)));
    let zero_stride = r#"{"op": "conv2d", "attrs": {"stride": [0, 1]}}"#;
    assert!(matches!(attempt(zero_stride, &tensors), Ok(Error::Attribute { name: "stride", .. })));
    tensors.insert("residual".into(), Array::zeros([1, 2, 4, 3]).unwrap());
    assert!(matches!(attempt(LAYER, &tensors), Ok(Error::Shape { name: "residual", .. })));
    tensors.insert("x".into(), Array::zeros([3, 4, 4]).unwrap());
    assert!(matches!(attempt(LAYER, &tensors), Ok(Error::Rank { name: "x", .. })));
}

#[test]
fn a_panic_is_a_failure() {
    let failure = catch(|| -> Result<()> { panic!("boom {}", 7) }).unwrap_err();
    assert!(matches!(failure, Failure::Panic(message) if message == "boom 7"));
}
