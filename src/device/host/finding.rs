//! Findings: what is wrong in a launch, and how it is reported.

use super::calls::Dim3;
use std::fmt;

/// The kinds of findings. Their names begin the text that a user reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "checked-host"), allow(dead_code))]
pub(super) enum Kind {
    OutOfBounds,
    Misaligned,
    WrongDirection,
    SharedRace,
    GlobalRace,
    WrittenTwice,
    Uninitialised,
    StillCopying,
    Unwritten,
    DivergentBarrier,
    MixedCollectives,
    UndeclaredMeeting,
    Mbarrier,
    MalformedMatrix,
    MissingProxyFence,
    MissingWgmmaFence,
    OperandInUse,
    SumsInUse,
    Unwaited,
    Deadlock,
    Endless,
}

impl Kind {
    /// Whether the lane is never resumed after this finding, so that its block ends.
    #[cfg_attr(not(feature = "checked-host"), allow(dead_code))]
    pub fn ends_block(self) -> bool {
        use Kind::*;
        matches!(self, OutOfBounds | Misaligned | WrongDirection | DivergentBarrier | MixedCollectives | UndeclaredMeeting)
            || matches!(self, Mbarrier | MalformedMatrix | Unwaited | Deadlock)
            || self.ends_launch()
    }

    /// Whether other blocks would only fail in the same way, and slowly.
    pub fn ends_launch(self) -> bool {
        self == Kind::Endless
    }

    fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned access",
            Kind::WrongDirection => "operand used against its declaration",
            Kind::SharedRace => "race in shared memory",
            Kind::GlobalRace => "race in global memory",
            Kind::WrittenTwice => "element written twice",
            Kind::Uninitialised => "uninitialised shared memory",
            Kind::StillCopying => "shared memory still being copied",
            Kind::Unwritten => "output not written",
            Kind::DivergentBarrier => "divergent barrier",
            Kind::MixedCollectives => "mixed collectives",
            Kind::UndeclaredMeeting => "undeclared meeting",
            Kind::Mbarrier => "misused mbarrier",
            Kind::MalformedMatrix => "malformed matrix",
            Kind::MissingProxyFence => "missing proxy fence",
            Kind::MissingWgmmaFence => "missing wgmma fence",
            Kind::OperandInUse => "operand overwritten in use",
            Kind::SumsInUse => "sums touched in use",
            Kind::Unwaited => "operation not waited for",
            Kind::Deadlock => "deadlock",
            Kind::Endless => "endless kernel",
        }
    }
}

/// One finding.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub kind: Kind,
    /// The linear index of the block, by which findings are ordered.
    pub order: u64,
    pub block: Option<Dim3>,
    pub thread: Option<usize>,
    /// The return address of the call at which the error was found, or 0.
    pub place: usize,
    /// A second place that belongs to the finding. The text says what it is.
    pub other: usize,
    pub what: String,
}

/// The findings of a block, or of a launch: each kind once for each place.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub list: Vec<Finding>,
}

/// The largest number of places that are reported: the first ones explain the rest.
pub(super) const MAX_FINDINGS: usize = 8;

impl Findings {
    pub fn has(&self, kind: Kind, place: usize) -> bool {
        self.list.iter().any(|f| f.kind == kind && f.place == place)
    }

    /// Whether no further kind of finding would be reported.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MAX_FINDINGS
    }

    /// Adds the findings of a block. Of several at the same place, that of the block with the
    /// lowest index is kept.
    pub fn merge(&mut self, from: &mut Vec<Finding>) {
        for finding in from.drain(..) {
            match self.list.iter_mut().find(|f| f.kind == finding.kind && f.place == finding.place) {
                Some(known) if known.order > finding.order => *known = finding,
                Some(_) => {}
                None => self.list.push(finding),
            }
        }
    }

    /// The texts of the findings, in the order of blocks.
    pub fn report(mut self) -> Vec<String> {
        self.list.sort_by_key(|f| (f.order, f.thread, f.kind));
        let mut texts: Vec<String> = Vec::new();
        for finding in self.list {
            let (place, other) = (Place::find(finding.place), Place::find(finding.other));
            // Two calls that the compiler made of one line count as one.
            if finding.other != 0 && place.is_some() && place == other {
                continue;
            }
            let text = finding.text(place.as_ref(), other.as_ref());
            if !texts.contains(&text) && texts.len() < MAX_FINDINGS {
                texts.push(text);
            }
        }
        texts
    }
}

impl Finding {
    fn text(&self, place: Option<&Place>, other: Option<&Place>) -> String {
        let mut text = format!("{}: ", self.kind.name());
        if let Some(Dim3 { x, y, z }) = self.block {
            text += &format!("block ({x}, {y}, {z}) ");
        }
        if let Some(thread) = self.thread {
            text += &format!("thread {thread} ");
        }
        text += &self.what;
        if let Some(place) = place {
            text += &format!(", at {place}");
        }
        if let Some(other) = other {
            text += &format!("; the other at {other}");
        }
        text
    }
}

/// A source line of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Files and lines, from the innermost inlined function to the kernel's entry.
    frames: Vec<(String, u32)>,
}

impl Place {
    #[cfg(not(feature = "checked-host"))]
    fn find(_: usize) -> Option<Self> {
        None
    }

    /// The lines of the call before a return address. Release builds know them unless debug
    /// information is stripped.
    #[cfg(feature = "checked-host")]
    fn find(address: usize) -> Option<Self> {
        if address == 0 {
            return None;
        }
        let mut frames = Vec::new();
        backtrace::resolve((address - 1) as *mut std::ffi::c_void, |symbol| {
            if let (Some(file), Some(line)) = (symbol.filename().and_then(|f| f.file_name()), symbol.lineno()) {
                frames.push((file.to_string_lossy().into_owned(), line));
            }
        });
        (!frames.is_empty()).then_some(Self { frames })
    }
}

impl fmt::Display for Place {
    /// Prints the kernel's line, and the line of the device function that it calls there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.frames[0];
        let kernel = self.frames.iter().find(|(file, _)| file.ends_with(".cu"));
        let (file, line) = kernel.unwrap_or(inner);
        write!(f, "{file}:{line}")?;
        if kernel.is_some() && inner.0.ends_with(".cuh") { write!(f, " (in {}:{})", inner.0, inner.1) } else { Ok(()) }
    }
}
