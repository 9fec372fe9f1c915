//! `intervals.safetensors`: scores in variants of each query's strongest training examples and of a random sample.

use std::collections::{BTreeMap, BTreeSet};

use crate::attribution::ranking::{Ranking, ScorePlace};
use crate::attribution::stability::Known;
use crate::attribution::store::{Key, TensorData, TensorFile, write_safetensors};
use crate::job::brief::Brief;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::metadata::{KEY, score_metadata};
use crate::job::folder::places::intervals_file;
use crate::presence::is_file;

/// The entry that says how many proponents and opponents of each query were taken.
const DEPTH: &str = "strongest";

/// The scores of one query in the variants: for each column what every variant gives it.
pub(in crate::job) type OfQuery = BTreeMap<usize, Vec<f32>>;

/// Writes them: for each query its columns with the variants' scores, and the sample that all queries have.
pub(in crate::job) fn write_intervals(
    brief: &Brief,
    summary: &Summary,
    key: &Key,
    scores: &[OfQuery],
    control: &[usize],
) -> Result<(), JobError> {
    let entries = || scores.iter().enumerate().flat_map(|(query, of)| of.iter().map(move |entry| (query, entry)));
    let pairs: Vec<i64> = entries().flat_map(|(query, (column, _))| [query as i64, *column as i64]).collect();
    let values: Vec<f32> = entries().flat_map(|(_, (_, scores))| scores.iter().copied()).collect();
    let sampled: Vec<i64> = control.iter().map(|column| *column as i64).collect();
    let variants = brief.shortlisted();
    let shapes = [[pairs.len() / 2, 2], [pairs.len() / 2, variants.len()], [sampled.len(), 1]];
    let tensors = [
        TensorData::new("pairs", &shapes[0], &pairs),
        TensorData::new("scores", &shapes[1], &values),
        TensorData::new("control_columns", &shapes[2][..1], &sampled),
    ];
    let mut metadata = score_metadata(brief, summary, 0, key);
    let name = |&answer: &usize| brief.answers[answer].name.as_str();
    let words = |&answer: &usize| brief.answers[answer].variant.map(|variant| variant.words());
    let names: Vec<&str> = variants.iter().map(name).collect();
    let described: Vec<Option<String>> = variants.iter().map(words).collect();
    metadata.insert("variants".into(), serde_json::json!(names).to_string());
    metadata.insert("variants_described".into(), serde_json::json!(described).to_string());
    metadata.insert(DEPTH.into(), brief.shortlist_depth().to_string());
    metadata.insert(KEY.into(), key.to_string());
    Ok(write_safetensors(&intervals_file(brief), &tensors, &metadata)?)
}

/// Whether the folder holds the scores of shortlisted variants with this key, of as many examples as are asked for.
pub(in crate::job) fn has_intervals(brief: &Brief, key: &Key) -> Result<bool, JobError> {
    let file = intervals_file(brief);
    if !is_file(&file) {
        return Ok(false);
    }
    let file = TensorFile::open_checked(&file)?;
    let depth = file.metadata(DEPTH).and_then(|depth| depth.parse::<usize>().ok());
    let is_deep = depth.is_some_and(|depth| depth >= brief.shortlist_depth());
    Ok(file.metadata(KEY) == Some(&key.to_string()) && is_deep)
}

/// The scores of shortlisted variants as a run folder has them.
#[derive(Debug)]
pub(in crate::job) struct StoredIntervals {
    /// Names of the variants.
    pub names: Vec<String>,
    /// How many proponents and opponents of each query were taken.
    pub depth: usize,
    /// Columns of the sample.
    pub control: BTreeSet<usize>,
    /// Columns of the scores.
    columns: usize,
    scores: Vec<OfQuery>,
}

impl StoredIntervals {
    /// Reads them; none if the folder has none with this key.
    pub(in crate::job) fn read(brief: &Brief, key: &Key) -> Result<Option<Self>, JobError> {
        let file = intervals_file(brief);
        if !is_file(&file) {
            return Ok(None);
        }
        let file = TensorFile::open_checked(&file)?;
        if file.metadata(KEY) != Some(&key.to_string()) {
            return Ok(None);
        }
        let variants = brief.shortlisted();
        let mut scores = vec![OfQuery::new(); brief.query_rows()];
        let pairs = file.i64("pairs")?.chunks_exact(2);
        for (pair, own) in pairs.zip(file.f32("scores")?.chunks_exact(variants.len().max(1))) {
            if let Some(of) = scores.get_mut(pair[0] as usize) {
                of.insert(pair[1] as usize, own.to_vec());
            }
        }
        Ok(Some(Self {
            names: variants.iter().map(|&answer| brief.answers[answer].name.clone()).collect(),
            depth: file.metadata(DEPTH).and_then(|depth| depth.parse().ok()).unwrap_or(0),
            control: file.i64("control_columns")?.iter().map(|column| *column as usize).collect(),
            columns: brief.training.columns.len(),
            scores,
        }))
    }

    /// An example's scores in the variants; none if it was not among the strongest when they were computed.
    pub(in crate::job) fn of(&self, ScorePlace { query, column }: ScorePlace) -> Option<&[f32]> {
        self.scores.get(query)?.get(&column).map(Vec::as_slice)
    }

    /// Whether each variant lists each of a ranking's examples of one side too, `sign` being 1 for proponents and -1 for
    /// opponents; none if one of them was not scored in the variants. `strongest` has the columns of the query's
    /// strongest examples of both sides.
    pub(in crate::job) fn kept(
        &self,
        query: usize,
        listed: &[(usize, f32)],
        sign: f32,
        strongest: &Ranking,
    ) -> Option<Vec<Vec<bool>>> {
        let strong: BTreeSet<usize> = strongest
            .proponents
            .iter()
            .take(self.depth)
            .chain(strongest.opponents.iter().take(self.depth))
            .map(|(column, _)| *column)
            .collect();
        let of_variant = |variant: usize| {
            let score = |&column: &usize| self.of(ScorePlace { query, column }).map(|scores| sign * scores[variant]);
            let of_strong = strong.iter().map(score).collect::<Option<Vec<f32>>>()?;
            let sample = self.control.iter().filter(|column| !strong.contains(*column));
            let of_sample = sample.map(score).collect::<Option<Vec<f32>>>()?;
            let known = Known { strong: &of_strong, control: &of_sample, others: self.columns - strong.len() };
            let lists = |(column, _): &(usize, f32)| Some(known.lists(score(column)?, listed.len()));
            listed.iter().map(lists).collect::<Option<Vec<bool>>>()
        };
        (0..self.names.len()).map(of_variant).collect()
    }
}
