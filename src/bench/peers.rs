//! Times of other libraries, which are merged into results.

use super::floors::Ceilings;
use super::results::parse;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The time that another library took for a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerTime {
    /// The library and its way: "torch channels_last benchmark graph".
    pub name: String,
    /// Median seconds.
    pub median: f64,
    /// The fastest sample.
    #[serde(default)]
    pub min: Option<f64>,
    /// The slowest sample.
    #[serde(default)]
    pub max: Option<f64>,
}

/// All ways in which another library ran one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The key: `row bN dtype`, followed by `tail` for a row with its tail.
    pub key: String,
    /// Shape of the input that ran.
    pub x: Vec<usize>,
    /// The ways and their times.
    #[serde(default)]
    pub times: Vec<PeerTime>,
    /// Peak memory of the fastest way, without its tensors.
    #[serde(default)]
    pub workspace_bytes: Option<u64>,
    /// Why there is no time.
    #[serde(default)]
    pub message: Option<String>,
}

/// The library that was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// The library.
    pub name: String,
    /// Versions of the library and of what it uses.
    pub versions: BTreeMap<String, String>,
    /// The device's name.
    pub device: String,
}

/// What benches/peers/torch_peers.py writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// The version of the format: 1.
    pub format: u32,
    /// The library.
    pub peer: Peer,
    /// The rates that it reaches in large matrix products.
    #[serde(default)]
    pub ceilings: Ceilings,
    /// The rows.
    pub rows: Vec<PeerRow>,
}

impl Peers {
    /// Reads the file's text; `source` is its name.
    ///
    /// # Errors
    /// [`Error::Parse`](crate::Error::Parse).
    pub fn parse(source: &str, text: &str) -> Result<Self> {
        parse(source, text, |peers: &Peers| peers.format)
    }
}
