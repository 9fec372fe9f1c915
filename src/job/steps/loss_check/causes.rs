//! Why a loss is not the logged one: other ways to read the data, each tried on the sample.

use super::compared::{Compared, FAR, Judged, Logged, OfStage, rounded};
use super::rows::{ExampleLosses, Share, losses};
use super::templates::rendered_otherwise;
use crate::attribution::Observer;
use crate::curvature::gemm::Products;
use crate::data::{Dataset, Kind, TokenDataset};
use crate::job::brief::loss_check::{Cause, LossCheck};
use crate::job::error::JobError;
use crate::job::plan::Plan;
use crate::job::request::Precision;
use crate::model::{Limits, LoadOptions, Model};

/// Lengths to which trainers cut.
const LENGTHS: [usize; 8] = [4096, 2048, 1024, 512, 256, 128, 64, 32];

/// The blocks that are tried for packing, if the model takes as many positions and training recorded no length.
const BLOCKS: [usize; 4] = [1024, 512, 128, 64];

/// How many nats more likely an end token is at ends of texts than elsewhere, if a model has learned where texts end.
const KNOWS_ENDS: f64 = 2.0;

/// What an example adds to the loss, as another way to read it has it.
type SumOfLosses<'a> = Box<dyn Fn(&ExampleLosses) -> Share + 'a>;

/// Another way to read the data, whose loss follows from rows that were computed.
struct Reading<'a> {
    what: String,
    about: About,
    /// What it does to end tokens, if it is about them.
    ends: Option<Ends>,
    /// What an example adds to the loss.
    sum: SumOfLosses<'a>,
}

/// What another way to read the data is about, the likeliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// End tokens: missing, or no targets.
    Ends,
    /// Begin tokens, or the template of a conversation.
    Template,
    /// Where examples are cut.
    Length,
    /// Which tokens are targets.
    Masks,
    /// Examples that are joined.
    Packing,
    /// The precision of training.
    Precision,
    /// How the trainer made one number of many losses.
    Means,
}

/// What another way to read the data does to end tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// They are no targets.
    Ignored,
    /// There is one behind each text.
    Added,
}

/// Says why, if the losses are not the log's or if end tokens tell that they were read otherwise.
pub(super) fn explain(
    stage: &OfStage<'_>,
    compared: &[Compared],
    check: &mut LossCheck,
    observer: &dyn Observer,
) -> Result<(), JobError> {
    let distance =
        |at: &Compared| stage.judge(&stage.sums(&at.rows), 1.0, &at.logged).map_or(0.0, |found| found.beyond);
    let distances: Vec<f64> = compared.iter().map(distance).collect();
    let beyond = distances.iter().filter(|&&distance| distance > 0.0).count();
    let disagrees = 3 * beyond > compared.len() || distances.iter().any(|&distance| distance > FAR);
    let ends = stage.end.and_then(|end| of_ends(stage, compared, end));
    if !disagrees {
        if let Some(ends) = ends {
            check.warnings.push(format!("the training data are probably not what training saw: {ends}"));
        }
        return Ok(());
    }
    let place = (0..compared.len()).max_by(|&a, &b| distances[a].total_cmp(&distances[b])).expect("one disagrees");
    let worst = &compared[place];
    let found = try_all(stage, compared, worst, observer)?;
    let mut text = format!(
        "the training data are probably not what training saw: at {beyond} of {} checkpoints the loss of the examples is not the log's",
        compared.len()
    );
    if let Some(ends) = ends {
        text.push_str(&format!("; {ends}"));
    }
    text.push_str(&tried(&worst.name, &found));
    check.warnings.push(text);
    check.causes.extend(found);
    Ok(())
}

/// What was tried, as the end of a sentence: what gives the logged loss, else all of it.
pub(super) fn tried(worst: &str, found: &[Cause]) -> String {
    let mut text = String::new();
    let (right, wrong): (Vec<&Cause>, Vec<&Cause>) = found.iter().partition(|cause| cause.agrees);
    for cause in &right {
        text.push_str(&format!("; {} it would be {:.3} at {worst}, as logged", cause.what, cause.loss));
    }
    if right.is_empty() {
        let tried: Vec<String> = wrong.iter().map(|cause| format!("{} ({:.3})", cause.what, cause.loss)).collect();
        let tried = if tried.is_empty() {
            String::new()
        } else {
            format!(" At {worst} none of these agrees: {}.", tried.join(", "))
        };
        text.push_str(&format!(
            ".{tried} It may be another tokenizer, template, file or mask: compare the first example's tokens with what training saw"
        ));
    }
    text
}

/// Every other way to read the data that can be tried at `worst`, which is one of `compared`; nothing if the work was
/// interrupted. What agrees comes first, and of that the likeliest; of what does not, the nearest.
pub(super) fn try_all(
    stage: &OfStage<'_>,
    compared: &[Compared],
    worst: &Compared,
    observer: &dyn Observer,
) -> Result<Vec<Cause>, JobError> {
    let mut found = vec![];
    let mut add = |about: About, what: String, judged: Judged, elsewhere: bool| {
        let (loss, agrees) = (rounded(judged.loss), judged.agrees() && elsewhere);
        found.push((about, Cause { what, checkpoint: worst.name.clone(), loss, agrees }));
    };
    let network = stage.plan.training.networks.get(worst.site.network)?;
    let limits = network.model.limits();
    if let (Kind::Tokens(tokens), Limits::Tokens(limits)) = (stage.sample.kind(), limits)
        && !tokens.is_labelled()
        && !tokens.is_masked()
    {
        for reading in readings(stage, tokens) {
            let judge = |at: &Compared| {
                stage.judge(&at.rows.iter().map(|rows| (reading.sum)(rows)).collect::<Vec<_>>(), 1.0, &at.logged)
            };
            let right = compared.iter().filter(|at| judge(at).is_some_and(|found| found.agrees())).count();
            if let Some(judged) = judge(worst) {
                add(reading.about, reading.what, judged, 3 * (compared.len() - right) <= compared.len());
            }
        }
        let altered = altered(stage, tokens, limits.vocabulary, limits.max_positions);
        let rendered = rendered_otherwise(stage)?.into_iter().map(|(what, data)| (About::Template, what, data));
        for (about, what, data) in altered.into_iter().chain(rendered) {
            let Some(rows) = losses(&network.model, &data, None, observer)? else { return Ok(vec![]) };
            if let Some(judged) = stage.judge(&stage.sums(&rows), 1.0, &worst.logged) {
                add(about, what, judged, true);
            }
        }
    }
    if let Some(argument) = stage.log.half_precision
        && let Some(model) = in_bf16(stage.plan, worst)?
    {
        let Some(rows) = losses(&model, &stage.sample, None, observer)? else { return Ok(vec![]) };
        if let Some(judged) = stage.judge(&stage.sums(&rows), 1.0, &worst.logged) {
            let what = format!("in 16 bits (`--dtype bf16`), as training had `{argument}`,");
            add(About::Precision, what, judged, true);
        }
    }
    let n = stage.log.accumulation as f64;
    if let Logged::Training(_) = worst.logged
        && n > 1.0
        && let Some(judged) = stage.judge(&stage.sums(&worst.rows), n, &worst.logged)
    {
        let what = format!("summed over the {n} micro-batches of an update, as some releases of transformers log it,");
        add(About::Means, what, judged, true);
    }
    let middle = worst.logged.middle();
    let distance = |cause: &Cause| (cause.loss - middle).abs();
    let likelier = |(about, a): &(About, Cause), (other, b): &(About, Cause)| match a.agrees && b.agrees {
        true => about.cmp(other),
        false => b.agrees.cmp(&a.agrees),
    };
    found.sort_by(|a, b| likelier(a, b).then(distance(&a.1).total_cmp(&distance(&b.1))));
    Ok(found.into_iter().map(|(_, cause)| cause).collect())
}

/// The network of a checkpoint with products in bf16; none where they cannot run, or run already.
fn in_bf16(plan: &Plan, at: &Compared) -> Result<Option<Model>, JobError> {
    let networks = &plan.training.networks;
    let options = networks.options();
    let can_run = Products::Bf16.run_here() && plan.job.resources.device.is_cpu();
    if !can_run || plan.job.model.dtype != Precision::F32 {
        return Ok(None);
    }
    let options = LoadOptions { products: Products::Bf16, ..options.clone() };
    Ok(Some(Model::load(&networks.parameters()[at.site.network].of[0].0, &options)?))
}

/// Other targets, of which the losses are known.
fn readings<'a>(stage: &'a OfStage<'_>, tokens: &'a TokenDataset) -> Vec<Reading<'a>> {
    let smoothing = stage.log.label_smoothing;
    let mut list: Vec<Reading<'a>> = vec![];
    let examples = 0..stage.sample.len();
    let has = |token: u32| {
        examples.clone().any(|i| tokens.tokens(i).iter().zip(tokens.is_target(i)).any(|(&t, &is)| is && t == token))
    };
    let mut add = |about: About, what: &str, sum: SumOfLosses<'a>| {
        let ends = [("train:input`)", Ends::Ignored), ("`--add-eos train`)", Ends::Added)];
        let ends = ends.into_iter().find(|(flag, _)| what.ends_with(flag)).map(|(_, ends)| ends);
        list.push(Reading { what: what.to_owned(), about, ends, sum });
    };
    if let Some(end) = stage.end {
        if has(end) {
            let sum = move |rows: &ExampleLosses| {
                rows.sum(smoothing, |row| rows.is_target[row] && rows.tokens[row + 1] != end)
            };
            add(About::Ends, "with labels at end tokens ignored (`--add-eos train:input`)", Box::new(sum));
        } else if !tokens.is_split() {
            let sum = move |rows: &ExampleLosses| {
                let share = rows.sum(smoothing, |row| rows.is_target[row]);
                match rows.last_of_text(end).map(|row| f64::from(rows.end[row])) {
                    Some(last) => Share { loss: share.loss + last, targets: share.targets + 1.0, ..share },
                    None => share,
                }
            };
            add(About::Ends, "with an end token as the last target (`--add-eos train`)", Box::new(sum));
        }
    }
    let has_prompt = |i: usize| tokens.is_target(i).iter().skip(1).any(|&target| !target);
    if !tokens.is_split() && examples.clone().any(has_prompt) {
        let sum = move |rows: &ExampleLosses| rows.sum(smoothing, |_| true);
        add(About::Masks, "with every token as a target, prompts too,", Box::new(sum));
    }
    let longest = examples.map(|i| tokens.written(i).len()).max().unwrap_or(0);
    for length in LENGTHS.into_iter().filter(|&length| !tokens.is_split() && length < longest) {
        let sum = move |rows: &ExampleLosses| rows.sum(smoothing, |row| rows.is_target[row] && row + 1 < length);
        add(About::Length, &format!("with examples cut to {length} tokens"), Box::new(sum));
    }
    let mean = move |rows: &ExampleLosses| {
        let Share { loss, targets, .. } = rows.sum(smoothing, |row| rows.is_target[row]);
        let (loss, targets) = if targets > 0.0 { (loss / targets, 1.0) } else { (0.0, 0.0) };
        Share { loss, targets, first: 0.0 }
    };
    add(About::Means, "as a mean over examples of each one's mean", Box::new(mean));
    list
}

/// Other tokens, which have to go through the model.
fn altered(
    stage: &OfStage<'_>,
    tokens: &TokenDataset,
    vocabulary: usize,
    most: Option<usize>,
) -> Vec<(About, String, Dataset)> {
    let recorded = stage.conversations.as_ref().and_then(|of| stage.plan.texts.treatment(of.stage)?.max_length);
    let mut list = vec![];
    if tokens.is_split() {
        // an encoder's and a decoder's tokens are not one sequence that could begin otherwise or be joined to others
        return list;
    }
    let begin = tokens.tokenizer().and_then(|tokenizer| tokenizer.begin_token(vocabulary)).or(stage.end);
    let n = stage.sample.len();
    if let Some(begin) = begin {
        let with = tokens.with_front(begin, most);
        let already = (0..n).all(|i| tokens.tokens(i).first() == Some(&begin));
        let twice = already && (0..n).all(|i| tokens.tokens(i).get(1) == Some(&begin));
        let what = if already {
            "with a second begin token in front"
        } else {
            "with a begin token in front (`--add-bos train`)"
        };
        list.extend(with.map(|data| (About::Template, what.to_owned(), data)));
        if already {
            let adds_begin = stage.plan.job.data.add_bos.has_train();
            let what = if twice {
                "with one begin token in front and not two (without `--add-bos`, or with `--special-tokens none`)"
            } else if adds_begin {
                "without the begin token in front (leave `--add-bos` out)"
            } else {
                "without the begin token in front (`--special-tokens none`)"
            };
            let without = tokens.without_front();
            let both = without.as_ref().filter(|_| twice).and_then(|data| match data.kind() {
                Kind::Tokens(tokens) => tokens.without_front(),
                Kind::Rows(_) => None,
            });
            list.extend(without.map(|data| (About::Template, what.to_owned(), data)));
            let what = "without the two begin tokens in front (`--special-tokens none`, and no `--add-bos`)";
            list.extend(both.map(|data| (About::Template, what.to_owned(), data)));
        }
    }
    let is_packed = stage.plan.job.data.pack.is_some();
    if !is_packed {
        for block in blocks(recorded, most) {
            let packed = tokens.in_blocks(block);
            let what = format!("packed into blocks of {block} tokens (`--pack {block}`)");
            list.extend(packed.map(|data| (About::Packing, what, data)));
        }
    }
    list
}

/// Lengths of blocks that a model of at most so many positions may have been trained on: the recorded one, else common
/// ones and that of the model.
fn blocks(recorded: Option<usize>, most: Option<usize>) -> Vec<usize> {
    let fits = |length: &usize| *length > 1 && most.is_none_or(|most| *length <= most);
    if let Some(length) = recorded.filter(fits) {
        return vec![length];
    }
    let mut list: Vec<usize> = BLOCKS.into_iter().filter(fits).collect();
    // a model of few positions was trained on no longer blocks
    list.extend(most.filter(|most| *most > 1 && *most < BLOCKS[0] && !BLOCKS.contains(most)));
    list
}

/// The mean of `-log p` of the end token where texts end, and at all other rows.
fn end_losses(stage: &OfStage<'_>, at: &Compared, end: u32) -> Option<(f64, f64)> {
    let is_cut =
        |rows: &ExampleLosses| stage.plan.job.data.max_length.is_some_and(|length| rows.tokens.len() >= length);
    let whole = || at.rows.iter().filter(|rows| !rows.end.is_empty() && !is_cut(rows));
    let last = |rows: &ExampleLosses| rows.last_of_text(end);
    let ends: Vec<f64> = whole().filter_map(|rows| Some(f64::from(rows.end[last(rows)?]))).collect();
    let before = |rows: &'_ ExampleLosses| last(rows).map_or(vec![], |row| rows.end[..row].to_vec());
    let others = whole().flat_map(before).map(f64::from);
    let (sum, count) = others.fold((0.0, 0.0), |(sum, count), loss| (sum + loss, count + 1.0));
    (!ends.is_empty() && count > 0.0).then(|| (ends.iter().sum::<f64>() / ends.len() as f64, sum / count))
}

/// What losses that agree cannot tell: how training had end tokens, where they would agree as well with them or without
/// them and the model does not show it either. `counted` says that the log's tokens are those of the examples, so that
/// none is missing.
pub(super) fn undecided(stage: &OfStage<'_>, compared: &[Compared], counted: bool) -> Option<String> {
    let (Kind::Tokens(tokens), Some(end), Some(last)) = (stage.sample.kind(), stage.end, compared.last()) else {
        return None;
    };
    if tokens.is_labelled() || tokens.is_masked() || stage.plan.job.data.pack.is_some() {
        return None;
    }
    let (at_end, elsewhere) = end_losses(stage, last, end)?;
    let knows_ends = at_end + KNOWS_ENDS < elsewhere;
    let agrees = |reading: &Reading<'_>| {
        compared.iter().all(|at| {
            let sums: Vec<Share> = at.rows.iter().map(|rows| (reading.sum)(rows)).collect();
            stage.judge(&sums, 1.0, &at.logged).is_some_and(|judged| judged.agrees())
        })
    };
    let is_read = (0..stage.sample.len()).any(|i| tokens.tokens(i).contains(&end));
    let other = readings(stage, tokens).into_iter().find(|reading| match reading.ends {
        // a model that expects them was trained to
        Some(Ends::Ignored) => !knows_ends,
        // a count has those that are read and no targets
        Some(Ends::Added) => is_read || !counted,
        None => false,
    })?;
    agrees(&other).then(|| {
        format!("the losses agree and cannot tell how training had end tokens: {} they would agree as well", other.what)
    })
}

/// What end tokens tell that the loss hardly shows, being one target of many: whether the model knows where texts end,
/// though they were read without end tokens, or does not, though these are targets.
fn of_ends(stage: &OfStage<'_>, compared: &[Compared], end: u32) -> Option<String> {
    let Kind::Tokens(tokens) = stage.sample.kind() else { return None };
    if tokens.is_labelled() || tokens.is_masked() || stage.plan.job.data.pack.is_some() {
        return None;
    }
    let (first, last) = (compared.first()?, compared.last()?);
    let ((at_first, _), (at_end, elsewhere)) = (end_losses(stage, first, end)?, end_losses(stage, last, end)?);
    let mean = stage.as_read(&last.rows)?.loss;
    let n = stage.sample.len();
    let is_read = (0..n).any(|i| tokens.tokens(i).contains(&end));
    let is_target = |i: usize| tokens.tokens(i).iter().zip(tokens.is_target(i)).any(|(&token, &is)| is && token == end);
    if !(0..n).any(is_target) {
        let falls = compared.len() > 1 && at_end < 0.9 * at_first && at_end < mean;
        let knows = (falls || at_end < 0.25 * mean) && at_end + KNOWS_ENDS < elsewhere;
        return knows.then(|| {
            let how = if is_read { "with end tokens that are no targets" } else { "without end tokens" };
            format!(
                "the examples are read {how}, and at {} the model expects one where they end (loss {at_end:.2}, elsewhere {elsewhere:.2}), as one does that was trained to: were end tokens targets in training (`--add-eos train`)?",
                last.name
            )
        });
    }
    let vocabulary = match stage.plan.training.networks.get(last.site.network).ok()?.model.limits() {
        Limits::Tokens(limits) => limits.vocabulary as f64,
        Limits::Rows(_) => return None,
    };
    let never = (0..n).all(is_target) && at_end > vocabulary.ln() && at_end > mean + KNOWS_ENDS && at_end >= at_first;
    never.then(|| {
        format!(
            "end tokens are targets here, and at {} the model expects none where texts end (loss {at_end:.2}), as one does that was never trained to: were they left out of the loss (`--add-eos train:input`)?",
            last.name
        )
    })
}
