//! Which of the training examples are scored, where a filter or a file of ids chooses them: the candidates, and a random
//! sample of all others that shows what the choice missed.

use std::collections::HashMap;
use std::path::Path;

use crate::attribution::evaluate::{LexiconBuilder, random_scores};
use crate::data::{self, Dataset, Kind, Role};
use crate::foreign_file;
use crate::job::brief::data::options;
use crate::job::error::JobError;
use crate::job::option_text::{OptionText, option_text};
use crate::job::request::{CandidatesRequest, Job, StoreScores, WordFilter};
use crate::job::training::chosen::Chosen;

/// Examples of the control sample, if nobody says.
pub(in crate::job) const CONTROL: usize = 1000;

/// The most bytes of a file of ids.
const FILE_LIMIT: u64 = 1 << 30;

/// The number of the random numbers that the control sample is drawn by, which no query has.
const CONTROL_DRAW: usize = usize::MAX;

/// Refuses what candidates cannot be asked together with.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    let options = |problem: OptionText, hint: &'static str| Err(JobError::Options { problem, hint: Some(hint.into()) });
    let output = &job.output;
    let Some(request) = &output.candidates else {
        return match output.candidate_control {
            Some(_) => options(
                "<candidate_control> samples what <candidates> left out, and all examples are scored".into(),
                "leave it out, or give <candidates>",
            ),
            None => Ok(()),
        };
    };
    if let CandidatesRequest::File(file) = request
        && file.to_str().is_none()
    {
        return options(option_text!("the path `{}` is not UTF-8", file.display()), "rename the file");
    }
    if job.data.pack.is_some() {
        return options(
            "<candidates> chooses rows, and with <pack> an example is a block of several".into(),
            "leave one of the two out",
        );
    }
    if output.group_by.is_some() {
        return options(
            "<group_by> adds scores up over all examples of a group, and <candidates> scores some of them alone".into(),
            "leave one of the two out",
        );
    }
    if output.store_scores == StoreScores::Top {
        return options(
            "<candidates> compares every score with those of the control sample".into(),
            "leave <store_scores = top> out: few columns are stored",
        );
    }
    Ok(())
}

/// Candidates of a run whose stages have data of their own.
pub(in crate::job) fn of_several_stages() -> JobError {
    JobError::Options {
        problem: "<candidates> chooses among the examples of one stage, and the training run has several".into(),
        hint: Some("leave it out to score the examples of all stages".into()),
    }
}

/// The examples that are scored, and what a person should know of the choice.
///
/// # Errors
/// [`JobError`] if the filter finds no text, or the file names an example that there is not.
pub(in crate::job) fn choose(
    job: &Job,
    request: &CandidatesRequest,
    (train, train_file): (&Dataset, &Path),
    (queries, query_file): (&Dataset, &Path),
) -> Result<(Chosen, Vec<String>), JobError> {
    let n = train.len();
    let mut notes = vec![];
    let is_candidate = match request {
        CandidatesRequest::File(file) => listed(file, train)?,
        CandidatesRequest::Words(filter, count) => {
            if *count >= n {
                notes.push(format!(
                    "`--candidates {request}` asks for more than there are: all {n} training examples are scored"
                ));
                vec![true; n]
            } else {
                of_words(job, (*filter, *count), (train, train_file), (queries, query_file))?
            }
        }
    };
    let candidates = is_candidate.iter().filter(|is| **is).count();
    let control = job.output.candidate_control.unwrap_or(CONTROL);
    let order = random_scores(job.method.seed, CONTROL_DRAW, n);
    let mut others: Vec<usize> = (0..n).filter(|&m| !is_candidate[m]).collect();
    others.sort_by(|&a, &b| order[a].total_cmp(&order[b]).then(a.cmp(&b)));
    others.truncate(control);
    let control = others.len();
    let mut places: Vec<usize> = (0..n).filter(|&m| is_candidate[m]).chain(others).collect();
    places.sort_unstable();
    let is_control = places.iter().map(|&m| !is_candidate[m]).collect();
    if candidates < n {
        let of_control = match (control, n - candidates - control) {
            (0, _) => "nothing is known of the others (`--candidate-control 0`)".to_owned(),
            (_, 0) => format!("so are all {control} others, as a control sample"),
            (_, left) => format!("so are {control} of the others, drawn at random as a control sample; {left} are not"),
        };
        notes
            .push(format!("{candidates} of {n} training examples are candidates ({request}) and scored; {of_control}"));
    }
    Ok((Chosen { places, is_control, of: n }, notes))
}

/// Whether each example is among the best of a query's by its words. Examples that share no word with a query are none
/// of its candidates.
fn of_words(
    job: &Job,
    (filter, count): (WordFilter, usize),
    (train, train_file): (&Dataset, &Path),
    (queries, query_file): (&Dataset, &Path),
) -> Result<Vec<bool>, JobError> {
    if let (Kind::Rows(_), _) | (_, Kind::Rows(_)) = (train.kind(), queries.kind()) {
        return Err(JobError::Options {
            problem: option_text!("<candidates = {}> reads words, and this model reads rows of numbers", filter.name()),
            hint: Some("give a file of ids: `--candidates FILE`".into()),
        });
    }
    let options = options(job, None, None)?;
    let (columns, id_field) = (&options.columns, &options.id_field);
    let mut asked = vec![];
    data::for_each_text(query_file, Role::Queries, columns, id_field, |_, text| asked.push(text.to_owned()))?;
    let places: HashMap<&str, usize> = (0..train.len()).map(|m| (train.id(m), m)).collect();
    let mut lexicon = LexiconBuilder::new(filter.into(), asked.iter().map(String::as_str));
    let mut read = vec![];
    data::for_each_text(train_file, Role::Train, columns, id_field, |id, text| {
        // a text without a token is no example
        if let Some(&place) = places.get(id.as_str()) {
            lexicon.push(text);
            read.push(place);
        }
    })?;
    let lexicon = lexicon.finish();
    let mut is_candidate = vec![false; train.len()];
    for query in &asked {
        let scores = lexicon.scores(query);
        let mut order: Vec<usize> = (0..scores.len()).filter(|&at| scores[at] > 0.0).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        order.truncate(count);
        order.into_iter().for_each(|at| is_candidate[read[at]] = true);
    }
    if !is_candidate.contains(&true) {
        return Err(JobError::Options {
            problem: option_text!(
                "no training example of {} shares a word with a query of {}",
                train_file.display(),
                query_file.display()
            ),
            hint: Some("words are runs of letters and digits; leave `--candidates` out to score all examples".into()),
        });
    }
    Ok(is_candidate)
}

/// Whether each example is one that a file lists.
fn listed(file: &Path, train: &Dataset) -> Result<Vec<bool>, JobError> {
    let failed = |source| JobError::Io { file: file.to_owned(), action: "cannot be read", source };
    let bytes = foreign_file::read(file, FILE_LIMIT).map_err(failed)?;
    let bad = |line: usize, problem: String, hint: &'static str| JobError::Options {
        problem: option_text!("{}:{}: {}", file.display(), line, problem),
        hint: Some(hint.into()),
    };
    let places: HashMap<&str, usize> = (0..train.len()).map(|m| (train.id(m), m)).collect();
    let mut is_candidate = vec![false; train.len()];
    let mut lines: HashMap<usize, usize> = HashMap::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let id = std::str::from_utf8(line).map_err(|_| bad(number, "no UTF-8".into(), "save the file as UTF-8"))?;
        if id.is_empty() {
            continue;
        }
        let unknown = || {
            let shown: String = id.chars().take(80).collect();
            let hint = "write an id of a training example a line: its `id`, else the number of its line (or row)";
            bad(number, format!("no training example has the id `{shown}`"), hint)
        };
        let place = *places.get(id).ok_or_else(unknown)?;
        if let Some(first) = lines.insert(place, number) {
            let problem = format!("the id `{id}` stands in line {first} too");
            return Err(bad(number, problem, "name each example once"));
        }
        is_candidate[place] = true;
    }
    if lines.is_empty() {
        return Err(bad(1, "no id".into(), "write an id of a training example a line"));
    }
    Ok(is_candidate)
}
