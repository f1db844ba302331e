//! Filters that are factorised into columns and rows: the error, the cost of each rank, and the rank that is chosen.

use half::f16;
use warpconv::factorise::{low_rank, ranks, separate};
use warpconv::{
    Conv2d, Conv2dSpec, Error, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, SpatiallySeparableConv2d,
    SpatiallySeparableSpec, Tensor,
};

use super::{DEVICE, drawn, whole};

#[test]
fn a_separated_filter_is_the_dense_one() {
    let sobel = [-1f32, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0];
    let gauss = [1f32, 4.0, 6.0, 4.0, 1.0].map(|r| [1f32, 4.0, 6.0, 4.0, 1.0].map(|c| r * c));
    let values = whole(2 * 3 * 9 * 11, &[-3.0, -1.0, 0.0, 2.0, 5.0], 9);
    for (size, filter) in [(3, &sobel[..]), (5, gauss.as_flattened())] {
        let kernel = Parameter::new(&[size, size], filter).unwrap();
        let (col_weight, row_weight) = separate(&kernel).unwrap().depthwise_weights(3).unwrap();
        let spec = SpatiallySeparableSpec { padding: Padding::Same, groups: 3, ..Default::default() };
        let separated = SpatiallySeparableConv2d::new(spec, col_weight, row_weight).unwrap();
        let spec = Conv2dSpec { padding: Padding::Same, groups: 3, ..Default::default() };
        let dense = Conv2d::new(spec, Parameter::new(&[3, 1, size, size], &filter.repeat(3)).unwrap()).unwrap();
        let x = Tensor::from_slice(&DEVICE, [2, 3, 9, 11], &values).unwrap();
        let [a, b] = [separated.forward(&Inputs::new(&x)).unwrap(), dense.forward(&Inputs::new(&x)).unwrap()];
        assert_eq!(a.to_vec().unwrap(), b.to_vec().unwrap());
    }
}

#[test]
fn a_factorised_layer_is_the_dense_one_up_to_its_error() {
    let (c_out, c_in, weight) = (6, 4, whole(6 * 4 * 9, &[-0.5, -0.25, 0.125, 0.75], 3));
    let kernel = Parameter::new(&[c_out, c_in, 3, 3], &weight).unwrap();
    let x = Tensor::<f32>::randn(&DEVICE, [1, c_in, 8, 8], MemoryFormat::Contiguous, 4).unwrap();
    let padding = Padding::all(1);
    let dense = Conv2d::new(Conv2dSpec { stride: [2, 1], padding, ..Default::default() }, kernel.clone()).unwrap();
    let expected = dense.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let mut before = f64::INFINITY;
    for c_mid in [4, 8, 12] {
        let factors = low_rank(&kernel, c_mid).unwrap();
        let spec = SpatiallySeparableSpec { stride: [2, 1], padding, ..Default::default() };
        let layer = SpatiallySeparableConv2d::new(spec, factors.col_weight, factors.row_weight).unwrap();
        let y = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
        let difference: Vec<f32> = y.iter().zip(&expected).map(|(a, b)| a - b).collect();
        // each output is a sum of at most 36 inputs with the remainder
        assert!(norm(&difference) <= factors.error * norm(&x.to_vec().unwrap()) * 3.0 + 1e-4, "{c_mid}");
        assert!(factors.error < before);
        before = factors.error;
    }
    assert!(before < 1e-6, "all singular values are there");
}

/// The errors are those of the factors, the times those of the plans.
#[test]
fn ranks_are_what_their_layers_cost() {
    let (c_out, c_in) = (32, 24);
    let kernel = drawn(&[c_out, c_in, 3, 3], &[-0.5, -0.25, 0.125, 0.75], 3);
    let spec = SpatiallySeparableSpec { stride: [2, 1], padding: Padding::all(1), ..Default::default() };
    let x = [4, c_in, 60, 52];
    let request = PlanRequest::new(x).format(MemoryFormat::ChannelsLast);
    let seconds = |plan: &warpconv::Plan<f16>| plan.explain().choices[0].verdict.clone().unwrap().seconds;
    let found = ranks::<f16>(&kernel, &spec, &DEVICE, &request).unwrap();
    assert_eq!(found.ranks.len(), c_in * 3);
    let norm = kernel.values().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    for c_mid in [1, 8, 30, 64, 72] {
        let factors = low_rank(&kernel, c_mid).unwrap();
        let rank = found.ranks[c_mid - 1];
        assert_eq!(rank.c_mid, c_mid);
        assert!((rank.relative_error * norm - factors.error).abs() < 1e-9 * norm, "{rank:?}");
        let layer = SpatiallySeparableConv2d::new(spec, factors.col_weight, factors.row_weight).unwrap();
        assert_eq!(rank.cost.seconds, seconds(&layer.plan(&DEVICE, &request).unwrap()), "{c_mid}");
        let [column, row] = layer.geometries(x).unwrap();
        assert_eq!(rank.cost.macs, column.macs().unwrap() + row.macs().unwrap());
    }
    let dense = Conv2d::new(Conv2dSpec { stride: [2, 1], padding: Padding::all(1), ..Default::default() }, kernel).unwrap();
    assert_eq!(found.dense.seconds, seconds(&dense.plan(&DEVICE, &request).unwrap()));
}

#[test]
fn the_fastest_rank_is_within_the_tolerance_or_the_dense_layer_is() {
    // 4 separable filters of 64 channels, and a little of everything else
    let part = |index: usize, seed: usize| (((index + seed) * 7919 % 127) as f32 / 64.0) - 1.0;
    let value = |i: usize| {
        let (o, c, row, column) = (i / 576, i / 9 % 64, i / 3 % 3, i % 3);
        let sum: f32 = (0..4).map(|m| part(c * 3 + row, 1000 * m) * part(o * 3 + column, 5000 + 1000 * m)).sum();
        sum + 1e-4 * part(i, 77)
    };
    let kernel = Parameter::new(&[64, 64, 3, 3], &(0..64 * 64 * 9).map(value).collect::<Vec<_>>()).unwrap();
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let request = PlanRequest::new([8, 64, 112, 112]).format(MemoryFormat::ChannelsLast);
    let found = ranks::<f16>(&kernel, &spec, &DEVICE, &request).unwrap();
    assert!(found.ranks.is_sorted_by(|a, b| a.relative_error >= b.relative_error && a.cost.macs < b.cost.macs));
    let rank = found.fastest_within(1e-3).unwrap();
    assert!(rank.relative_error <= 1e-3 && (4..=32).contains(&rank.c_mid) && rank.cost.seconds < found.dense.seconds, "{rank:?}");
    // another one is slower, or as fast and less exact, or beyond the tolerance
    for other in &found.ranks {
        let worse = other.cost.seconds > rank.cost.seconds || other.cost.seconds == rank.cost.seconds && other.c_mid <= rank.c_mid;
        assert!(worse || other.relative_error > 1e-3, "{other:?}");
    }
    // all singular values take more products than the dense layer
    assert_eq!(found.fastest_within(0.0), None);
    assert_eq!(found.fastest_within(f64::NAN), None);

    let refused = |spec, kernel, x| ranks::<f16>(kernel, spec, &DEVICE, &PlanRequest::new(x)).unwrap_err();
    let grouped = SpatiallySeparableSpec { groups: 2, ..spec };
    assert!(matches!(refused(&grouped, &kernel, [1, 64, 8, 8]), Error::Attribute { name: "groups", .. }));
    assert!(matches!(refused(&spec, &kernel, [1, 32, 8, 8]), Error::Shape { name: "x", .. }));
    assert!(matches!(refused(&spec, &Parameter::vector(&[1f32]), [1, 1, 8, 8]), Error::Rank { expected: 4, .. }));
}
