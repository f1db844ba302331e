//! Sets of inputs and outputs that rotate, so that a measurement does not find them in a cache.

use super::{Bench, OVER_CACHE, SETS, Subject};
use crate::bench::checks::{Sample, Whole};
use crate::bench::values::Placed;
use crate::cases::Problem;
use crate::error::Result;
use crate::layers::{Inputs, LayerSpec, Plan, RoIs, WorkspaceMemory};
use crate::tensor::TensorView;
use crate::{DeviceKind, Element, Layout, MemoryFormat, Shape, Stream, Tensor};
use std::collections::BTreeMap;

/// One set of inputs with its output.
pub(super) struct Set<T: Element> {
    pub(super) tensors: Vec<(&'static str, Tensor<T>)>,
    rois: Option<RoIs>,
    pub(super) y: Tensor<T>,
}

impl<T: Element> Set<T> {
    /// The bytes that rotate with the set: its tensors, not the layer's weights.
    pub(super) fn bytes(&self) -> usize {
        let tensors = self.tensors.iter().map(|(_, tensor)| tensor).chain([&self.y]);
        tensors.map(|tensor| tensor.layout().extent() * size_of::<T>()).sum()
    }

    pub(super) fn run(&mut self, layer: &LayerSpec, plan: &Plan<T>, memory: &mut WorkspaceMemory, stream: &Stream) -> Result<()> {
        let views: BTreeMap<&str, TensorView<'_, T>> = self.tensors.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
        let inputs = Inputs::from_named(layer, &views, self.rois.as_ref().map(RoIs::view))?;
        plan.run(&inputs, &mut self.y, memory.workspace(), stream)
    }
}

impl Bench {
    /// The number of sets of this many bytes that rotate.
    pub(super) fn sets(&self, bytes: usize) -> usize {
        const TYPICAL_CACHE: usize = 64 << 20;
        let cache = self.device.cache_bytes().unwrap_or(TYPICAL_CACHE);
        if self.device.kind() == DeviceKind::Host { 1 } else { (OVER_CACHE * cache).div_ceil(bytes.max(1)).clamp(SETS[0], SETS[1]) }
    }

    /// The sets that rotate, and the oracle's result for a part of the first.
    pub(super) fn rotation<T: Element>(&self, subject: &Subject, formats: [MemoryFormat; 2]) -> Result<(Vec<Set<T>>, Sample)> {
        let Subject { problem, report, parameters, .. } = subject;
        let (first, inputs) = self.set(problem, 0, formats, report.output)?;
        let rois = if problem.shapes.contains_key("rois") { self.rois(problem)? } else { vec![] };
        let sample = Whole { problem, parameters, inputs: &inputs, rois: &rois }.sample(self.oracle)?;
        let mut sets = vec![first];
        for index in 1..self.sets(sets[0].bytes()) {
            sets.push(self.set(problem, index, formats, report.output)?.0);
        }
        Ok((sets, sample))
    }

    /// Set number `index`, and its inputs on the host. The formats are those of x and of the
    /// others.
    #[expect(clippy::type_complexity)]
    pub(super) fn set<T: Element>(
        &self,
        problem: &Problem,
        index: usize,
        formats: [MemoryFormat; 2],
        output: Shape,
    ) -> Result<(Set<T>, BTreeMap<&'static str, Placed<T>>)> {
        let mut tensors = Vec::new();
        let mut inputs = BTreeMap::new();
        for &name in problem.layer.signature().inputs.iter().filter(|name| **name != "rois") {
            let Some(shape) = problem.shapes.get(name) else { continue };
            let format = formats[usize::from(name != "x")];
            let layout = Layout::packed(crate::geometry::rank4(name, shape)?, format);
            let placed = self.values.place::<T>(name, index, layout)?;
            tensors.push((name, Tensor::from_slice_in_memory_order(&self.device, layout.shape(), format, &placed.values)?));
            if index == 0 {
                inputs.insert(name, placed);
            }
        }
        let rois = problem.shapes.contains_key("rois").then(|| RoIs::from_slice(&self.device, problem.x()?[0], &self.rois(problem)?));
        let y = Tensor::zeros(&self.device, output, formats[1])?;
        Ok((Set { tensors, rois: rois.transpose()?, y }, inputs))
    }

    /// RoIs for a problem that pools them, in coordinates before `spatial_scale`.
    pub(super) fn rois(&self, problem: &Problem) -> Result<Vec<[f32; 5]>> {
        let [n, _, h, w] = problem.x()?;
        let scale = problem.layer.pooling().map_or(1.0, |pooling| pooling.spatial_scale);
        let count = problem.shape("rois").first().copied().unwrap_or_default();
        self.values.rois(count, n, [h, w], scale)
    }
}
