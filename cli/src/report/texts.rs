//! The texts and pictures of what a report shows, as far as there is room for them.

use std::collections::HashMap;

use ascribe::hub::Settings;
use ascribe::job::{AggregateRequest, Job};

use super::bounds::{Bounds, MANY_CARDS};
use super::folder::RunFolder;
use super::originals::{self, Original};
use super::stored::{Inputs, StoredExample, StoredRanking};
use super::text::{ShownImage, ShownText};
use crate::words::counted;

/// Bytes of all pictures of a side, of queries and of training examples, and the longer side of a picture in pixels where
/// there are few cards and where there are many. A picture that several cards show stands in each of them.
const PICTURES: usize = 2_000_000;
const PICTURE_SIDE: [usize; 2] = [128, 64];

/// The texts of what is shown.
pub(super) struct Texts {
    queries: HashMap<String, Original>,
    train: HashMap<String, Original>,
    /// Pictures of queries and of training examples that are images.
    images: [HashMap<String, ShownImage>; 2],
    bounds: (usize, usize),
}

impl Texts {
    pub(super) fn of(run: &RunFolder, shown: &[StoredRanking], bounds: &Bounds, left_out: &mut Vec<String>) -> Self {
        let mut job = run.job.clone();
        job.find_in_cache(&Settings::from_environment());
        let job = &job;
        let is_each = job.method.aggregate == AggregateRequest::Each;
        let queries = match &job.data.queries {
            Some(file) if is_each => {
                let wanted = shown.iter().map(|r| (r.query.id.as_str(), r.query.excerpt.as_str())).collect();
                originals::find(job, file, &wanted)
            }
            _ => HashMap::new(),
        };
        let sides = shown.iter().flat_map(|ranking| [&ranking.proponents, &ranking.opponents]);
        let examples = sides.flat_map(|side| side.iter().take(bounds.cards));
        let wanted: HashMap<&str, &str> = examples.map(|e| (e.id.as_str(), e.excerpt.as_str())).collect();
        let mut train = HashMap::new();
        // blocks of joined documents stand in no file
        if job.data.pack.is_none() {
            let of_stages = job.data.stages.iter().map(|(stage, file)| (Some(stage), file));
            let of_one = (!job.data.train.as_os_str().is_empty()).then_some((None, &job.data.train));
            for (stage, file) in of_one.into_iter().chain(of_stages) {
                train.extend(originals::find(job, file, &wanted));
                // ids that two stages use for different examples have the stage's name before them
                if let Some(stage) = stage {
                    let prefix = format!("{stage}/");
                    let own = wanted.iter().filter_map(|(id, excerpt)| Some((id.strip_prefix(&prefix)?, *excerpt)));
                    let found = originals::find(job, file, &own.collect());
                    train.extend(found.into_iter().map(|(id, text)| (format!("{prefix}{id}"), text)));
                }
            }
        }
        // where examples are texts the files are not read again for pictures
        let images = match train.is_empty() && job.data.pack.is_none() {
            true => pictures(job, shown, &wanted, bounds, left_out),
            false => Default::default(),
        };
        if images.iter().any(|images| !images.is_empty()) {
            left_out.push("Pictures are those of the files, in small, before the image processor.".to_owned());
        } else if job.data.pack.is_some() {
            left_out
                .push("Training examples are blocks of joined documents; the beginning of each is shown.".to_owned());
        } else if run.inputs() == Inputs::Rows {
            left_out.push("Training examples are rows of numbers, which are not shown.".to_owned());
        } else if train.len() < wanted.len() {
            left_out.push(format!(
                "Of {} the excerpt of the ranking is shown: the file of training examples is not there, has changed, or \
                 holds no text for them.",
                counted((wanted.len() - train.len()) as u64, "examples")
            ));
        }
        Self { queries, train, images, bounds: (bounds.query, bounds.card) }
    }

    pub(super) fn query(&self, id: &str, excerpt: &str) -> ShownText {
        let text = match self.queries.get(id) {
            Some(text) => ShownText::new(&text.prompt, &text.body, self.bounds.0),
            None => ShownText::excerpt(excerpt, self.bounds.0),
        };
        ShownText { image: self.images[0].get(id).cloned(), ..text }
    }

    pub(super) fn example(&self, id: &str, excerpt: &str) -> ShownText {
        let text = match self.train.get(id) {
            Some(text) => ShownText::new(&text.prompt, &text.body, self.bounds.1),
            None => ShownText::excerpt(excerpt, self.bounds.1),
        };
        ShownText { image: self.images[1].get(id).cloned(), ..text }
    }

    /// What two examples have in common if they are copies; none if that is not known.
    pub(super) fn content<'a>(&'a self, example: &'a StoredExample) -> Option<(&'a str, &'a str)> {
        match (self.train.get(&example.id), self.images[1].get(&example.id)) {
            (Some(text), _) => Some((&text.prompt, &text.body)),
            (None, Some(image)) => Some((&image.address, &example.excerpt)),
            // an image that is not shown has nothing in its excerpt but its class
            (None, None) if example.excerpt.contains('…') || example.excerpt.starts_with("target ") => None,
            (None, None) => Some(("", &example.excerpt)),
        }
    }
}

/// Pictures of the queries, and of the training examples that are wanted, as far as there is room.
fn pictures(
    job: &Job,
    shown: &[StoredRanking],
    wanted: &HashMap<&str, &str>,
    bounds: &Bounds,
    left_out: &mut Vec<String>,
) -> [HashMap<String, ShownImage>; 2] {
    let side = PICTURE_SIDE[usize::from(2 * bounds.cards * bounds.queries > MANY_CARDS)];
    let (of_queries, without_room) = match &job.data.queries {
        Some(file) => originals::images(job, file, shown.iter().map(|r| r.query.id.as_str()), side, PICTURES),
        None => Default::default(),
    };
    // a picture takes room in every card that shows it
    let cards = shown.iter().map(|r| r.proponents.len().min(bounds.cards) + r.opponents.len().min(bounds.cards));
    let room = PICTURES * wanted.len() / cards.sum::<usize>().max(1);
    let (of_train, hidden) = match job.data.train.as_os_str().is_empty() {
        true => Default::default(),
        false => originals::images(job, &job.data.train, wanted.keys().copied(), side, room),
    };
    let hidden = hidden + without_room;
    if hidden > 0 {
        left_out.push(format!("There is no room for the pictures of {}.", counted(hidden as u64, "examples")));
    }
    [of_queries, of_train]
}
