//! Does a query's ranking lead to the training examples that are known to answer it?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::predictions::disagree;
use super::{EvaluateError, MAX_TEXT};
use crate::foreign_file;
use crate::ranking::ScoreRows;

/// For each query, the ids of the training examples that are right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    queries: Vec<(String, Vec<String>)>,
}

impl Answers {
    /// From (query id, ids of right training examples). Queries without answers are left out, answers
    /// named twice count once.
    pub fn new(queries: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let mut kept = Vec::new();
        for (query, answers) in queries {
            let mut seen = BTreeSet::new();
            let answers: Vec<String> = answers.into_iter().filter(|id| seen.insert(id.clone())).collect();
            if !answers.is_empty() {
                kept.push((query, answers));
            }
        }
        Self { queries: kept }
    }

    /// Reads JSON lines with a field `id` and a list of ids in `field` (`stated_by`, say). Ids are
    /// strings or whole numbers. Lines without the field are queries without known answers.
    ///
    /// # Errors
    /// [`EvaluateError::Io`]; [`EvaluateError::Line`] with the line's number, also if no line has the
    /// field or an id comes twice.
    pub fn read(path: &Path, field: &str) -> Result<Self, EvaluateError> {
        let text = foreign_file::read_text(path, MAX_TEXT).map_err(|source| EvaluateError::Io {
            file: path.to_owned(),
            doing: "read",
            source,
        })?;
        let fail = |line: usize, problem: String| EvaluateError::Line { file: path.to_owned(), line, problem };
        let (mut queries, mut seen, mut fields) = (Vec::new(), BTreeSet::new(), None);
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = number + 1;
            let value: Value = serde_json::from_str(line).map_err(|error| fail(number, error.to_string()))?;
            let Value::Object(object) = value else {
                return Err(fail(number, "expected a JSON object".to_owned()));
            };
            let Some(query) = object.get("id").and_then(id) else {
                return Err(fail(number, "no field `id` that is a string or a whole number".to_owned()));
            };
            if !seen.insert(query.clone()) {
                return Err(fail(number, format!("the id `{query}` was used before")));
            }
            fields.get_or_insert_with(|| object.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "));
            let Some(answers) = object.get(field) else { continue };
            let ids = answers.as_array().and_then(|list| list.iter().map(id).collect::<Option<Vec<_>>>());
            let Some(ids) = ids else {
                return Err(fail(number, format!("`{field}` is not a list of ids")));
            };
            queries.push((query, ids));
        }
        match fields {
            Some(fields) if queries.is_empty() => {
                Err(fail(1, format!("no line has the field `{field}`; the first has {fields}")))
            }
            _ => Ok(Self::new(queries)),
        }
    }

    /// Queries with their answers, in the file's order.
    pub fn queries(&self) -> &[(String, Vec<String>)] {
        &self.queries
    }
}

/// An id: a string or a whole number.
pub(super) fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(id) => Some(id.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// Where one query's answers stand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryRanks {
    /// The query's id.
    pub id: String,
    /// Ranks of its answers from 1, ascending.
    pub ranks: Vec<usize>,
}

impl QueryRanks {
    /// Share of the answers among the first `k` places.
    pub fn recall(&self, k: usize) -> f64 {
        self.ranks.iter().filter(|&&rank| rank <= k).count() as f64 / self.ranks.len() as f64
    }

    /// One over the rank of the first answer.
    pub fn reciprocal_rank(&self) -> f64 {
        self.ranks.first().map_or(0.0, |&rank| 1.0 / rank as f64)
    }
}

/// Retrieval figures, means over the queries that have both scores and known answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieval {
    /// (k, share of the answers among the first k); at most `k / answers`.
    pub recall_at: Vec<(usize, f64)>,
    /// Mean reciprocal rank of the first answer.
    pub mean_reciprocal_rank: f64,
    /// Every query by itself, in the order of the scores.
    pub queries: Vec<QueryRanks>,
    /// Queries with known answers that were not scored.
    pub not_scored: Vec<String>,
}

/// Ranks training examples by score, highest first, and looks where the known answers stand.
///
/// Equal scores rank in the order of the data, NaN after every number.
///
/// # Shapes
/// `scores`: `[Q, N]`; `queries`: `[Q]` and `examples`: `[N]` ids.
/// # Errors
/// [`EvaluateError::Disagree`] if ids and scores differ in number, [`EvaluateError::UnknownAnswer`] if an
/// answer is no training example, [`EvaluateError::NoCommonQuery`].
pub fn retrieval(
    scores: ScoreRows<'_>,
    queries: &[String],
    examples: &[String],
    answers: &Answers,
    ks: &[usize],
) -> Result<Retrieval, EvaluateError> {
    let matrix = "the score matrix";
    if queries.len() != scores.queries() {
        return Err(disagree("queries", matrix, scores.queries(), "the list of ids", queries.len()));
    }
    if examples.len() != scores.examples() {
        return Err(disagree("training examples", matrix, scores.examples(), "the list of ids", examples.len()));
    }
    let place: BTreeMap<&str, usize> = examples.iter().enumerate().map(|(m, id)| (id.as_str(), m)).collect();
    let known: BTreeMap<&str, &[String]> =
        answers.queries.iter().map(|(query, ids)| (query.as_str(), ids.as_slice())).collect();
    let mut found = Vec::new();
    for (q, query) in queries.iter().enumerate() {
        let Some(&ids) = known.get(query.as_str()) else { continue };
        let mut ranks = Vec::with_capacity(ids.len());
        for answer in ids {
            let Some(&m) = place.get(answer.as_str()) else {
                return Err(EvaluateError::UnknownAnswer {
                    query: query.clone(),
                    answer: answer.clone(),
                    examples: examples.len(),
                    first: examples.first().cloned().unwrap_or_default(),
                });
            };
            ranks.push(rank_of(scores.row(q), m));
        }
        ranks.sort_unstable();
        found.push(QueryRanks { id: query.clone(), ranks });
    }
    if found.is_empty() {
        let first_answer = answers.queries.first().map(|(id, _)| id.clone()).unwrap_or_default();
        return Err(EvaluateError::NoCommonQuery {
            answers: answers.queries.len(),
            queries: queries.len(),
            examples_of_ids: [first_answer, queries.first().cloned().unwrap_or_default()],
        });
    }
    let mean = |figure: &dyn Fn(&QueryRanks) -> f64| found.iter().map(figure).sum::<f64>() / found.len() as f64;
    let recall_at = ks.iter().map(|&k| (k, mean(&|query| query.recall(k)))).collect();
    let mean_reciprocal_rank = mean(&QueryRanks::reciprocal_rank);
    let scored: BTreeSet<&str> = queries.iter().map(String::as_str).collect();
    let not_scored = answers.queries.iter().map(|(query, _)| query).filter(|query| !scored.contains(query.as_str()));
    let not_scored = not_scored.cloned().collect();
    Ok(Retrieval { recall_at, mean_reciprocal_rank, queries: found, not_scored })
}

/// The rank of item `m` from 1, highest score first: equal scores in order, NaN after every number.
///
/// # Panics
/// If there is no item `m`.
pub fn rank_of(scores: &[f32], m: usize) -> usize {
    let mine = scores[m];
    let ahead = |&(other, &score): &(usize, &f32)| {
        if mine.is_nan() {
            return !score.is_nan() || other < m;
        }
        score > mine || (score == mine && other < m)
    };
    1 + scores.iter().enumerate().filter(ahead).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ascribe_curvature::Hint;

    fn strings(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn ranks_follow_a_stable_sort_with_nan_last() {
        let scores = [1.0, f32::NAN, 3.0, 1.0, 0.0, f32::INFINITY, f32::NAN, -0.0];
        let ranks: Vec<usize> = (0..8).map(|m| rank_of(&scores, m)).collect();
        assert_eq!(ranks, [3, 7, 2, 4, 5, 1, 8, 6]);
    }

    #[test]
    fn figures_of_two_queries() {
        let scores = [
            0.9, 0.1, 0.8, 0.7, // answers b and d: ranks 4 and 3
            0.0, 0.0, 0.0, 5.0, // other query, no answers
            0.5, 0.5, 0.5, 0.5, // answer b: rank 2 by the order of the data
        ];
        let (queries, examples) = (strings(&["q0", "q1", "q2"]), strings(&["a", "b", "c", "d"]));
        let answers = Answers::new([
            ("q2".to_owned(), strings(&["b"])),
            ("q0".to_owned(), strings(&["b", "d", "b"])),
            ("q9".to_owned(), strings(&["nobody"])),
            ("q1".to_owned(), Vec::new()),
        ]);
        let rows = ScoreRows::new(&scores, 3, 4).expect("3 x 4");
        let found = retrieval(rows, &queries, &examples, &answers, &[1, 2, 3, 10]).expect("known answers");
        assert_eq!(found.recall_at, [(1, 0.0), (2, 0.5), (3, 0.75), (10, 1.0)]);
        assert_eq!(found.mean_reciprocal_rank, (1.0 / 3.0 + 1.0 / 2.0) / 2.0);
        assert_eq!(found.queries[0], QueryRanks { id: "q0".to_owned(), ranks: vec![3, 4] });
        assert_eq!(found.not_scored, ["q9"]);
    }

    #[test]
    fn ids_that_do_not_meet_are_reported() {
        let rows = ScoreRows::new(&[1.0, 2.0], 1, 2).expect("1 x 2");
        let run = |query: &str, answer: &str| {
            let answers = Answers::new([(query.to_owned(), strings(&[answer]))]);
            let error = retrieval(rows, &strings(&["ask-0"]), &strings(&["doc-0", "doc-1"]), &answers, &[1]);
            let error = error.expect_err("ids differ");
            (error.to_string(), error.hint().expect("a hint"))
        };
        assert_eq!(
            run("ask-0", "document-1"),
            (
                "the answer `document-1` of query `ask-0` is not among the 2 training examples".to_owned(),
                "training ids look like `doc-0`".to_owned()
            )
        );
        assert_eq!(run("question-0", "doc-1").1, "answers have ids like `question-0`, the scored queries like `ask-0`");
        assert!(retrieval(rows, &strings(&["a", "b"]), &strings(&["c", "d"]), &Answers::default(), &[1]).is_err());
        assert!(retrieval(rows, &strings(&["a"]), &strings(&["c"]), &Answers::default(), &[1]).is_err());
    }

    #[test]
    fn answer_files_are_read_or_refused_by_line() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let read = |text: &str| {
            std::fs::write(file.path(), text).expect("writable");
            Answers::read(file.path(), "stated_by")
                .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
        };
        let good = "{\"id\": \"q\", \"stated_by\": [\"a\", 7]}\n\n{\"id\": 3}\n";
        assert_eq!(read(good).expect("valid").queries(), [("q".to_owned(), strings(&["a", "7"]))]);
        let message = |text: &str| read(text).expect_err("broken");
        assert_eq!(
            message("{\"id\": 1, \"answers\": [2]}"),
            "FILE: line 1: no line has the field `stated_by`; the first has `id`, `answers`"
        );
        assert_eq!(
            message("{\"id\": 1, \"stated_by\": [2]}\n{\"stated_by\": [2]}"),
            "FILE: line 2: no field `id` that is a string or a whole number"
        );
        assert_eq!(message("{\"id\": 1, \"stated_by\": \"a\"}"), "FILE: line 1: `stated_by` is not a list of ids");
        assert_eq!(message("{\"id\": 1}\n{\"id\": \"1\"}"), "FILE: line 2: the id `1` was used before");
        assert_eq!(message("[1]"), "FILE: line 1: expected a JSON object");
        assert!(message("{").starts_with("FILE: line 1: EOF"));
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a test says what it lacks")]
    fn recorded_answers_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gpt2-mini/facts.jsonl");
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
            return;
        }
        let answers = Answers::read(&path, "stated_by").expect("valid");
        assert_eq!(answers.queries().len(), 40);
        assert!(answers.queries().iter().all(|(_, ids)| ids.len() == 8));
    }
}
