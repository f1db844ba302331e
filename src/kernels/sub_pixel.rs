//! SubPixelConv2d's kernels: those of Conv2d whose store can shuffle.

use super::launch::Family;
use super::{conv_direct, conv_gemm, conv2d};
use crate::Element;

pub(crate) fn families<T: Element>() -> [Family<T>; 6] {
    let shuffles = |family: &Family<T>| [conv_gemm::FAMILY, conv_direct::FAMILY].contains(&family.name);
    conv2d::families::<T>().map(|family| {
        if shuffles(&family) { family } else { Family { candidate: |_, _| Err("its store does not shuffle".into()), ..family } }
    })
}
