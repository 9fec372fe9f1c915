//! Where scores come from: layer sets and stages of training as columns of a table, and every layer by itself as a heat
//! map of the network's blocks and modules.

use super::bounds::Bounds;
use super::folder::{Part, RunFolder};
use super::model::{GridRow, PartGrid, PartRow, PartTable};
use super::plot::{shade, shade_class};
use super::stored::{StoredExample, StoredSet};
use super::text::name;
use crate::words;

/// Examples of a table of parts at either end, and of heat maps.
const EXAMPLES: usize = 5;

/// Columns of a table of parts: layer sets, or stages.
const COLUMNS: usize = 24;

/// Cells of all heat maps of a page.
const CELLS: usize = 40_000;

/// Characters of a name.
const NAME: usize = 120;

/// What scores are divided over in a run.
pub(super) struct Division<'a> {
    /// Sets that each are one layer, by their places in the network; none unless they are all layers, in several rows and
    /// columns.
    layout: Option<Layout>,
    /// The other sets.
    sets: Vec<(&'a Part, &'a StoredSet)>,
}

/// Layers as the cells of a table: blocks of the network below each other, their modules side by side.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    rows: Vec<String>,
    columns: Vec<String>,
    /// For each part of the run its row and column; none if it is no single layer.
    places: Vec<Option<(usize, usize)>>,
}

impl Layout {
    /// Of parts that are one layer each (by its name), as `--layer-sets each` makes them; the others are none.
    fn of(layers: &[Option<&str>]) -> Option<Self> {
        let (mut blocks, mut modules): (Vec<Vec<&str>>, Vec<String>) = (vec![], vec![]);
        let mut places = vec![];
        for layer in layers {
            let Some(layer) = layer else {
                places.push(None);
                continue;
            };
            let parts: Vec<&str> = layer.split('.').collect();
            let number =
                parts.iter().position(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
            let (block, module) = match number {
                Some(at) => (parts[..=at].to_vec(), parts[at + 1..].join(".")),
                None => (vec![], parts.join(".")),
            };
            let row = place(&mut blocks, block);
            places.push(Some((row, place(&mut modules, module))));
        }
        if blocks.len() < 2 || modules.len() < 2 {
            return None;
        }
        // what all blocks begin with says nothing
        let numbered: Vec<&Vec<&str>> = blocks.iter().filter(|block| !block.is_empty()).collect();
        let shortest = numbered.iter().map(|block| block.len()).min().unwrap_or(1);
        let is_common = |at: &usize| numbered.iter().all(|block| block[*at] == numbered[0][*at]);
        let common = (0..shortest.saturating_sub(1)).take_while(is_common).count();
        let row = |block: &Vec<&str>| match block.get(common..).unwrap_or_default() {
            [] => "in no block".to_owned(),
            [number] => format!("block {number}"),
            several => several.join(" "),
        };
        Some(Self { rows: blocks.iter().map(row).collect(), columns: modules, places })
    }

    fn cells(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// The place of a value in a list that it is added to if it is not there.
fn place<T: PartialEq>(list: &mut Vec<T>, value: T) -> usize {
    list.iter().position(|found| *found == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
}

/// A name as a part of a file's name, as `--layer-sets` makes it of a layer's.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

impl<'a> Division<'a> {
    pub(super) fn of(run: &'a RunFolder, queries: usize) -> Self {
        let summary = &run.records.summary;
        let set_of = |part: &Part| summary.layer_sets.iter().find(|set| set.name == part.name);
        let sets: Vec<(&Part, &StoredSet)> =
            run.layer_sets.iter().filter_map(|part| Some((part, set_of(part)?))).collect();
        let single = |set: &'a StoredSet| match set.layers.as_slice() {
            [layer] if set.slices.is_empty() && set.name == plain(layer) => Some(layer.as_str()),
            _ => None,
        };
        let layers: Vec<Option<&str>> = sets.iter().map(|(_, set)| single(set)).collect();
        let is_all = layers.iter().flatten().count() == summary.layers.len();
        let layout = Layout::of(&layers).filter(|layout| is_all && layout.cells() * queries.max(1) <= CELLS);
        // without a heat map layers are columns as other sets are
        let sets = sets.into_iter().enumerate();
        let sets = sets.filter(|(k, _)| layout.as_ref().is_none_or(|layout| layout.places[*k].is_none()));
        let sets = sets.map(|(_, set)| set).collect();
        Self { layout, sets }
    }

    /// The heat maps of a query's strongest examples, those that helped before those that hurt.
    pub(super) fn grids(
        &self,
        run: &RunFolder,
        query: usize,
        sides: [&[StoredExample]; 2],
        bounds: &Bounds,
    ) -> Vec<PartGrid> {
        let Some(layout) = &self.layout else { return vec![] };
        let of_side = (CELLS / (2 * layout.cells() * bounds.queries.max(1))).min(EXAMPLES);
        // where there is room for one, it is that of the strongest example
        let counts = if of_side == 0 { [1, 0] } else { [of_side; 2] };
        let examples = sides.iter().zip(counts).flat_map(|(side, count)| side.iter().take(count).enumerate());
        let grid = |(place, example): (usize, &StoredExample)| {
            let column = *run.columns.get(&example.id)?;
            let mut values = vec![vec![None; layout.columns.len()]; layout.rows.len()];
            for (part, at) in run.layer_sets.iter().zip(&layout.places) {
                if let Some((row, at)) = at {
                    values[*row][*at] = Some(part.scores.row(query).get(column).copied()?);
                }
            }
            let largest = values.iter().flatten().flatten().map(|value: &f32| value.abs()).fold(0.0, f32::max);
            let cell =
                |value: &Option<f32>| value.map(|value| (words::score(value), shade_class(shade(value, largest))));
            let sum = |values: &mut dyn Iterator<Item = Option<f32>>| {
                words::score(values.flatten().map(f64::from).sum::<f64>() as f32)
            };
            Some(PartGrid {
                id: name(&example.id, NAME),
                score: example.score,
                is_first: place == 0,
                columns: layout
                    .columns
                    .iter()
                    .map(|name_of| match name_of.is_empty() {
                        true => "layer".to_owned(),
                        false => name(name_of, NAME),
                    })
                    .collect(),
                rows: layout
                    .rows
                    .iter()
                    .zip(&values)
                    .map(|(row, values)| GridRow {
                        name: name(row, NAME),
                        cells: values.iter().map(cell).collect(),
                        sum: sum(&mut values.iter().copied()),
                    })
                    .collect(),
                sums: (0..layout.columns.len()).map(|column| sum(&mut values.iter().map(|row| row[column]))).collect(),
            })
        };
        examples.filter_map(grid).collect()
    }

    /// The tables of a query's parts: of layer sets that are in no heat map, and of stages and segments of training.
    pub(super) fn tables(&self, run: &RunFolder, query: usize, sides: [&[StoredExample]; 2]) -> Vec<PartTable> {
        let mut tables = vec![];
        if !self.sets.is_empty() {
            let parts: Vec<&Part> = self.sets.iter().map(|(part, _)| *part).collect();
            let sets: Vec<&StoredSet> = self.sets.iter().map(|(_, set)| *set).collect();
            let says = of_sums(&sets, run.records.summary.layers.iter().map(|layer| layer.name.as_str()));
            tables.push(table(run, "Layers", says, &parts, query, sides));
        }
        if run.stages.len() > 1 {
            let stages: Vec<&Part> = run.stages.iter().collect();
            tables.push(table(run, "Stages of training", ADDS_UP, &stages, query, sides));
        }
        if run.segments.len() > 1 {
            let segments: Vec<&Part> = run.segments.iter().collect();
            tables.push(table(run, "Segments of training", ADDS_UP, &segments, query, sides));
        }
        tables
    }
}

const ADDS_UP: &str = "The parts of an example add up to its whole score.";
const OVERLAPS: &str = "Some of these sets have layers in common: each part is right by itself, and they do not add up to the whole score.";
const LEAVES_OUT: &str = "Some layers are in none of these sets, so the parts do not add up to the whole score.";
const OF_HEADS: &str = "Heads are parts of the layers around attention; the other layers are in none of them.";

/// Whether the scores of sets add up to the whole score.
fn of_sums<'n>(sets: &[&StoredSet], mut layers: impl Iterator<Item = &'n str>) -> &'static str {
    let whole = |set: &&&StoredSet| set.slices.is_empty();
    let in_whole = |layer: &str| sets.iter().filter(whole).filter(|set| set.layers.iter().any(|l| l == layer)).count();
    let sliced = || sets.iter().filter(|set| !set.slices.is_empty());
    let mut of_sets = sets.iter().filter(whole).flat_map(|set| &set.layers);
    if of_sets.any(|layer| in_whole(layer) > 1) || sliced().flat_map(|set| &set.layers).any(|layer| in_whole(layer) > 0)
    {
        return OVERLAPS;
    }
    match (sliced().next(), layers.all(|layer| in_whole(layer) == 1)) {
        (Some(_), _) => OF_HEADS,
        (None, true) => ADDS_UP,
        (None, false) => LEAVES_OUT,
    }
}

fn table(
    run: &RunFolder,
    title: &'static str,
    says: &'static str,
    parts: &[&Part],
    query: usize,
    sides: [&[StoredExample]; 2],
) -> PartTable {
    let examples = sides.into_iter().flat_map(|side| side.iter().take(EXAMPLES));
    let rows: Vec<PartRow> = examples
        .filter_map(|example| {
            let column = *run.columns.get(&example.id)?;
            let parts = parts.iter().map(|part| part.scores.row(query).get(column).copied());
            Some(PartRow { id: name(&example.id, NAME), score: example.score, parts: parts.collect::<Option<_>>()? })
        })
        .collect();
    let largest = rows.iter().flat_map(|row| &row.parts).map(|part| part.abs()).fold(0.0, f32::max);
    let of_column = |column: usize| rows.iter().map(|row| row.parts[column].abs()).fold(0.0, f32::max);
    let mut columns: Vec<usize> = (0..parts.len()).collect();
    // of many parts the strongest, in their order
    columns.sort_by(|&a, &b| of_column(b).total_cmp(&of_column(a)));
    columns.truncate(COLUMNS);
    columns.sort_unstable();
    PartTable {
        title,
        says,
        columns: columns.iter().map(|&column| name(&parts[column].name, NAME)).collect(),
        left_out: parts.len() - columns.len(),
        rows: rows
            .into_iter()
            .map(|row| PartRow { parts: columns.iter().map(|&column| row.parts[column]).collect(), ..row })
            .collect(),
        largest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_stand_in_rows_of_blocks_and_columns_of_modules() {
        let layers = ["t.h.0.attn", "t.h.0.mlp", "t.h.1.attn", "t.h.1.mlp", "head"].map(Some);
        let found = Layout::of(&layers).expect("blocks and modules");
        assert_eq!(found.rows, ["block 0", "block 1", "in no block"]);
        assert_eq!(found.columns, ["attn", "mlp", "head"]);
        assert_eq!(found.places, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)].map(Some));
        let sides = ["encoder.block.0.q", "encoder.block.0.k", "decoder.block.0.q"].map(Some);
        assert_eq!(Layout::of(&sides).expect("two sides").rows, ["encoder block 0", "decoder block 0"]);
        // a perceptron is a list
        assert_eq!(Layout::of(&["0", "2", "4"].map(Some)), None);
        assert_eq!(Layout::of(&[]), None);
    }

    #[test]
    fn whether_sets_add_up_is_said() {
        let set = |layers: &[&str], slices: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
            StoredSet { name: "s".into(), layers: own(layers), slices: own(slices) }
        };
        let all = ["a", "b", "c"];
        let says = |sets: &[StoredSet]| of_sums(&sets.iter().collect::<Vec<_>>(), all.into_iter());
        assert_eq!(says(&[set(&["a"], &[]), set(&["b", "c"], &[])]), ADDS_UP);
        assert_eq!(says(&[set(&["a"], &[]), set(&["b"], &[])]), LEAVES_OUT);
        assert_eq!(says(&[set(&["a", "b"], &[]), set(&["b", "c"], &[])]), OVERLAPS);
        assert_eq!(says(&[set(&["a"], &["a output 0..2"]), set(&["a"], &["a output 2..4"])]), OF_HEADS);
        assert_eq!(says(&[set(&["a"], &["a output 0..2"]), set(&["a"], &[])]), OVERLAPS);
    }
}
