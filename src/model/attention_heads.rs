//! Which rows and columns of a network's layers belong to which head of its attention.
//!
//! A query head has its rows of the queries' layer and its columns of the output's. Keys and values are made by
//! key-value heads: where there are as many as query heads their rows belong to the head, and where several query heads
//! share one, they are a part of their own. The bias of the output belongs to no head.

use super::config::Config;
use super::error::LoadError;
use crate::curvature::{LayerSlice, LayerSpec, Side};

/// What of a layer belongs to a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadRole {
    /// Rows are queries, one query head after the other.
    Queries,
    /// Rows are keys or values, one key-value head after the other.
    KeysOrValues,
    /// Rows are all queries, then all keys, then all values.
    Packed {
        /// The key with the number of key-value heads; none: as many as query heads.
        kv_heads: Option<&'static str>,
    },
    /// Rows are queries, keys and values of the first head, then of the next.
    PackedByHead,
    /// Columns are what the heads give, one query head after the other.
    Output,
}

/// The layers of an attention with one for queries, keys, values and the output each.
pub(crate) const fn separate(names: [&'static str; 4]) -> [(&'static str, HeadRole); 4] {
    let [q, k, v, o] = names;
    [(q, HeadRole::Queries), (k, HeadRole::KeysOrValues), (v, HeadRole::KeysOrValues), (o, HeadRole::Output)]
}

/// The layers of Llama's attention, and of its relatives', by what their rows or columns are.
pub(crate) const LLAMA_ATTENTION: [(&str, HeadRole); 4] =
    separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]);

/// A part of the tracked layers of one attention: what belongs to a head, to key-value heads that several heads share,
/// or to none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadPart {
    /// The attention's place among the modules and the part's name there: `transformer.h.0.head-3`, `layers.0.kv-1`,
    /// `transformer.h.0.no-head`.
    pub name: String,
    /// Its rows and columns of tracked layers.
    pub slices: Vec<LayerSlice>,
}

/// The parts of an architecture's attention.
#[derive(Debug, Clone)]
pub(super) struct AttentionHeads {
    layers: &'static [(&'static str, HeadRole)],
    heads: usize,
    /// By the key that names it; heads if the configuration does not say.
    kv_heads: usize,
}

impl AttentionHeads {
    /// Of an architecture with these layers, and its configuration with the number of heads under a key.
    pub(super) fn of(
        layers: Option<&'static [(&'static str, HeadRole)]>,
        heads: Option<&'static str>,
        config: &Config,
    ) -> Result<Option<Self>, LoadError> {
        let (Some(layers), Some(heads)) = (layers, heads) else { return Ok(None) };
        let Some(heads) = config.optional_size(heads)? else { return Ok(None) };
        let key = layers.iter().find_map(|(_, role)| match role {
            HeadRole::Packed { kv_heads } => *kv_heads,
            _ => None,
        });
        let kv_heads = key.map(|key| config.optional_size(key)).transpose()?.flatten().unwrap_or(heads);
        Ok(Some(Self { layers, heads, kv_heads }))
    }

    /// The parts of all tracked layers of attention, in the order of the layers: heads, then what heads share, then what
    /// belongs to none. Every number of these layers is in one part.
    ///
    /// # Errors
    /// The name of a layer of keys or values whose heads cannot be told, because neither its queries nor its output are
    /// tracked.
    pub(super) fn parts(&self, tracked: &[LayerSpec]) -> Result<Vec<HeadPart>, String> {
        // by attention, in the order of its first layer
        let mut modules: Vec<(&str, Vec<(usize, HeadRole)>)> = vec![];
        for (l, layer) in tracked.iter().enumerate() {
            let found = self.layers.iter().find_map(|(end, role)| {
                let place = layer.name.strip_suffix(end)?;
                let place = if place.is_empty() { Some("") } else { place.strip_suffix('.') };
                Some((place?, *role))
            });
            let Some((place, role)) = found else { continue };
            match modules.iter_mut().find(|(other, _)| *other == place) {
                Some((_, layers)) => layers.push((l, role)),
                None => modules.push((place, vec![(l, role)])),
            }
        }
        let mut parts = vec![];
        for (place, layers) in modules {
            parts.extend(self.of_module(place, &layers, tracked)?);
        }
        Ok(parts)
    }

    /// The parts of one attention.
    fn of_module(
        &self,
        place: &str,
        layers: &[(usize, HeadRole)],
        tracked: &[LayerSpec],
    ) -> Result<Vec<HeadPart>, String> {
        let size = layers.iter().find_map(|&(l, role)| match role {
            HeadRole::Queries => Some(tracked[l].outputs / self.heads),
            HeadRole::Packed { .. } => Some(tracked[l].outputs / (self.heads + 2 * self.kv_heads)),
            HeadRole::PackedByHead => Some(tracked[l].outputs / (3 * self.heads)),
            HeadRole::Output => Some(tracked[l].inputs / self.heads),
            HeadRole::KeysOrValues => None,
        });
        let size = size.filter(|size| *size > 0).ok_or_else(|| tracked[layers[0].0].name.clone())?;
        let (mut heads, mut shared) = (vec![vec![]; self.heads], vec![]);
        let mut of_none = vec![];
        let slice = |layer: usize, side: Side, from: usize, n: usize| LayerSlice { layer, side, range: from..from + n };
        for &(l, role) in layers {
            let rows = |from: usize, n: usize| slice(l, Side::Output, from, n);
            // keys and values from a row on, of so many heads
            let mut add_kv = |heads: &mut Vec<Vec<LayerSlice>>, from: usize, kv_heads: usize| {
                let own = if kv_heads == heads.len() { heads } else { &mut shared };
                own.resize(own.len().max(kv_heads), vec![]);
                own.iter_mut().enumerate().for_each(|(h, slices)| slices.push(rows(from + h * size, size)));
            };
            let add = |heads: &mut Vec<Vec<LayerSlice>>, of: &dyn Fn(usize) -> LayerSlice| {
                heads.iter_mut().enumerate().for_each(|(h, slices)| slices.push(of(h)));
            };
            match role {
                HeadRole::Queries => add(&mut heads, &|h| rows(h * size, size)),
                HeadRole::PackedByHead => add(&mut heads, &|h| rows(3 * h * size, 3 * size)),
                HeadRole::KeysOrValues => add_kv(&mut heads, 0, tracked[l].outputs / size),
                HeadRole::Packed { .. } => {
                    add(&mut heads, &|h| rows(h * size, size));
                    add_kv(&mut heads, self.heads * size, self.kv_heads);
                    add_kv(&mut heads, (self.heads + self.kv_heads) * size, self.kv_heads);
                }
                HeadRole::Output => {
                    add(&mut heads, &|h| slice(l, Side::Input, h * size, size));
                    let LayerSpec { inputs, bias, .. } = tracked[l];
                    of_none.extend(bias.then(|| slice(l, Side::Input, inputs, 1)));
                }
            }
        }
        let named = |name: String, slices: Vec<LayerSlice>| HeadPart {
            name: if place.is_empty() { name } else { format!("{place}.{name}") },
            slices,
        };
        let heads = heads.into_iter().enumerate().map(|(h, slices)| named(format!("head-{h}"), slices));
        let shared = shared.into_iter().enumerate().map(|(g, slices)| named(format!("kv-{g}"), slices));
        let of_none = Some(named("no-head".to_owned(), of_none));
        Ok(heads.chain(shared).chain(of_none).filter(|part| !part.slices.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, outputs: usize, inputs: usize, bias: bool) -> LayerSpec {
        LayerSpec { name: name.into(), outputs, inputs, bias, input_group: 0, vocabulary: None }
    }

    /// A slice as layer, side and range.
    type Plain = (usize, Side, usize, usize);

    fn parts(of: &AttentionHeads, layers: &[LayerSpec]) -> Vec<(String, Vec<Plain>)> {
        let plain = |slice: LayerSlice| (slice.layer, slice.side, slice.range.start, slice.range.end);
        let parts = of.parts(layers).expect("heads").into_iter();
        parts.map(|part| (part.name, part.slices.into_iter().map(plain).collect())).collect()
    }

    use Side::{Input, Output};

    #[test]
    fn packed_layers_are_cut_at_three_places() {
        const LAYERS: &[(&str, HeadRole)] =
            &[("attn.c_attn", HeadRole::Packed { kv_heads: None }), ("attn.c_proj", HeadRole::Output)];
        let of = AttentionHeads { layers: LAYERS, heads: 2, kv_heads: 2 };
        let layers = [
            layer("h.0.attn.c_attn", 12, 4, true),
            layer("h.0.mlp.c_proj", 4, 4, true),
            layer("h.0.attn.c_proj", 4, 4, true),
        ];
        let head = |h: usize| {
            let rows = |part: usize| (0, Output, 4 * part + 2 * h, 4 * part + 2 * h + 2);
            (format!("h.0.head-{h}"), vec![rows(0), rows(1), rows(2), (2, Input, 2 * h, 2 * h + 2)])
        };
        assert_eq!(parts(&of, &layers), [head(0), head(1), ("h.0.no-head".to_owned(), vec![(2, Input, 4, 5)])]);
        // the output alone, without a bias
        let found = parts(&of, &[layer("h.0.attn.c_proj", 4, 4, false)]);
        assert_eq!(found[1], ("h.0.head-1".to_owned(), vec![(0, Input, 2, 4)]));
        assert_eq!(found.len(), 2);
        assert_eq!(parts(&of, &layers[1..2]), []);
    }

    #[test]
    fn shared_keys_and_values_are_parts_of_their_own() {
        let of = AttentionHeads { layers: &LLAMA_ATTENTION, heads: 4, kv_heads: 4 };
        let layers = [
            layer("layers.0.self_attn.k_proj", 6, 8, false),
            layer("layers.0.self_attn.v_proj", 6, 8, false),
            layer("layers.0.self_attn.q_proj", 12, 8, true),
        ];
        let found = parts(&of, &layers);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names[..5],
            ["layers.0.head-0", "layers.0.head-1", "layers.0.head-2", "layers.0.head-3", "layers.0.kv-0"]
        );
        assert_eq!(found[2].1, [(2, Output, 6, 9)]);
        assert_eq!(found[5], ("layers.0.kv-1".to_owned(), vec![(0, Output, 3, 6), (1, Output, 3, 6)]));
        let error = of.parts(&layers[..1]).expect_err("neither queries nor output");
        assert_eq!(error, "layers.0.self_attn.k_proj");
    }
}
