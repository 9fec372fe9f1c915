//! The words of a report that somebody who has not heard of influence functions does not know, a sentence or two each;
//! only those that stand on the page.

use ascribe::job::{RankBy, ReductionRequest, Solve, SolveLayers};

use super::folder::RunFolder;
use super::model::{QueryView, Term};
use super::sentences::curvature_name;
use super::stored::Inputs;
use crate::words::name_of;

/// Whether a text holds a sign that stands for something, as `<|endoftext|>` or `[SEP]`.
fn is_sign(text: &str) -> bool {
    let text = text.trim();
    text.len() > 2 && ((text.starts_with('<') && text.ends_with('>')) || (text.starts_with('[') && text.ends_with(']')))
}

/// The words of a run's report.
pub(super) fn of(run: &RunFolder, queries: &[QueryView]) -> Vec<Term> {
    let job = &run.job;
    let mut all: Vec<Term> = vec![];
    let mut add = |name: &str, says: String| all.push(Term { name: name.to_owned(), says });
    let has_card = |is: &dyn Fn(&super::model::Card) -> bool| {
        queries.iter().flat_map(QueryView::sides).any(|side| side.cards.iter().any(is))
    };
    let measure = job.method.measure.map(|measure| name_of(&measure)).unwrap_or_default();
    add(&measure, measurement(&measure, run));
    method(run, &mut add);
    if queries.iter().any(|query| query.sure.is_some()) {
        add(
            "between, stable",
            "The scores were also computed in other ways that are as good (“How it was computed” names them). The line over a bar, and the numbers at “between”, are the lowest and \
             the highest score of all ways; where they lie on both sides of 0, not even the sign is sure. An example is \
             stable if it and all above it are among the strongest in every way. These are no confidence intervals: how far \
             training again without an example would agree is another question, which only training again answers."
                .to_owned(),
        );
    }
    if has_card(&|card| card.amount.is_some()) {
        add(
            "calibrated",
            "The amount that the score stands for by models that were trained again without some examples, with the 95 % \
             interval of that scale."
                .to_owned(),
        );
    }
    if has_card(&|card| card.self_influence.is_some()) {
        add(
            "own score",
            "The example's score for itself (self-influence): by how much one more copy of it would lower its own loss, in \
             the unit of all scores. It is large for long, rare and mislabelled examples, which are high in many lists."
                .to_owned(),
        );
    }
    if job.output.rank_by == RankBy::Relatif {
        add(
            "listed by (RelatIF)",
            "The score over the square root of the own score: how much of what the example does to the model goes to this \
             query. Examples are listed by it."
                .to_owned(),
        );
    }
    if run.inputs() == Inputs::Texts {
        of_texts(run, queries, &mut add);
    }
    all
}

fn measurement(measure: &str, run: &RunFolder) -> String {
    let is_text = run.rankings.iter().any(|ranking| ranking.query.tokens.is_some());
    let many = match (run.job.method.reduction, run.inputs()) {
        (_, Inputs::Rows | Inputs::Images) => "",
        (ReductionRequest::Sum, Inputs::Texts) => ", added up over the words that are explained",
        (ReductionRequest::Mean, Inputs::Texts) => ", the mean over the words that are explained",
    };
    match measure {
        "loss" if is_text || run.inputs() == Inputs::Texts => format!(
            "How badly the model predicts what is explained: minus the logarithm of the probability that it gives to each \
             word{many}. 0 is certainty, 0.7 one chance in two, 2.3 one in ten, 4.6 one in a hundred."
        ),
        "loss" => "How far the model's answer is from the right one. For classes it is minus the logarithm of the right \
                   class's probability: 0 is certainty, 0.7 one chance in two, 2.3 one in ten. For numbers it is a squared \
                   distance."
            .to_owned(),
        "margin" => format!(
            "How much surer the model is of the right answer than of all others together: the logarithm of p/(1-p), with p \
             the right answer's probability{many}. 0 is one chance in two, 2.2 is 90 %, below 0 all other answers \
             together are likelier."
        ),
        "logprob" => format!(
            "The logarithm of the probability that the model gives to what is explained{many}. 0 is certainty, -0.7 one \
             chance in two, -2.3 one in ten."
        ),
        "probability" => {
            format!("The probability, from 0 to 1, that the model gives to what is explained{many}.")
        }
        "prediction" => "The number that the model gives for the query.".to_owned(),
        _ => "What was measured on each query.".to_owned(),
    }
}

fn method(run: &RunFolder, add: &mut impl FnMut(&str, String)) {
    let job = &run.job;
    let curvature = name_of(&job.method.curvature);
    if job.source.is_some() {
        add(
            "Source",
            "A way to predict, without training again, what one more copy of an example would change. It goes backwards \
             through the training run, in segments, and asks how much of the example's push was left at the end."
                .to_owned(),
        );
        return;
    }
    if curvature == "identity" {
        add(
            "product of gradients",
            "How much a small step of training on the example would change the query's measurement.".to_owned(),
        );
        return;
    }
    add(
        "influence function",
        "A way to predict, without training again, what one more copy of an example would change: the step that training \
         takes for it, made shorter in directions that the other examples hold in place, times what that step does to the \
         query."
            .to_owned(),
    );
    let layers = match job.method.solve {
        Solve::Auto | Solve::Ekfac => " The approximation takes every layer by itself.",
        Solve::GaussNewton if job.method.solve_layers == SolveLayers::Each => " Every layer is taken by itself.",
        Solve::Subspace | Solve::GaussNewton | Solve::MFac => "",
    };
    let (name, full) = match curvature.as_str() {
        "ekfac" => ("EK-FAC curvature", " (eigenvalue-corrected Kronecker factors)"),
        _ => ("curvature", ""),
    };
    add(
        name,
        format!(
            "The curvature says how firmly the training examples hold the weights in each direction; {} is an \
             approximation{full} of it that is small enough to compute.{layers}",
            if curvature == "diagonal" { "its diagonal".to_owned() } else { curvature_name(&curvature) }
        ),
    );
    let relative = job.method.damping.0.first().is_some_and(|damping| String::from(*damping).ends_with('x'));
    add(
        "damping",
        format!(
            "A number that is added to the curvature, so that directions about which the data say little do not decide. The \
             more of it, the more a score is a plain product of gradients.{}",
            if relative { " 0.1x is a tenth of a layer's mean curvature." } else { "" }
        ),
    );
}

fn of_texts(run: &RunFolder, queries: &[QueryView], add: &mut impl FnMut(&str, String)) {
    let cards = || queries.iter().flat_map(QueryView::sides).flat_map(|side| side.cards.iter());
    let (is_shaded, is_moved) = (cards().any(|card| card.tokens.is_some()), cards().any(|card| card.moved.is_some()));
    let has_losses = queries.iter().any(|query| query.losses.is_some());
    if queries.iter().any(|query| !query.text.prompt.is_empty()) {
        add(
            "given, explained",
            "Of a query's text the model is given the first part; the second is what the scores explain: how likely the \
             model finds it is what was measured."
                .to_owned(),
        );
    }
    if is_shaded || is_moved || has_losses {
        let of_queries = run.rankings.iter().filter_map(|ranking| ranking.query.tokens.as_ref()).flatten();
        let of_queries = of_queries.map(|token| token.text.as_str());
        let examples = run.rankings.iter().flat_map(|ranking| ranking.proponents.iter().chain(&ranking.opponents));
        let of_examples = examples.filter_map(|example| example.tokens.as_ref()).flatten();
        let sign = of_queries.chain(of_examples.map(|token| token.text.as_str())).find(|text| is_sign(text));
        let sign = sign.map_or_else(String::new, |sign| {
            let sign = super::text::name(sign.trim(), 40);
            format!(" `{sign}` is no text but a sign, which says for example that a text ends.")
        });
        add(
            "words, tokens",
            format!(
                "A model reads texts in tokens: words, pieces of words, marks. A rare word is several of them; `␣` is \
                 a space.{sign}"
            ),
        );
    }
    if has_losses {
        add(
            "hardest words",
            "The words of a query that the model finds least likely, with their loss and probability. The violet shade of a \
             word is the darker, the less likely it is: from three chances in four on, one in two, one in ten (underlined), \
             one in a hundred (underlined twice)."
                .to_owned(),
        );
    }
    if is_shaded {
        add(
            "words that add most",
            "Words of a training example are shaded by what each adds to its score: blue, and underlined where it is much, \
             for it; orange, and dotted, against it. What a word adds includes what the model learned there to say next. The \
             tokens of an example add up to its score."
                .to_owned(),
        );
    }
    if is_moved {
        add(
            "words of the query that it moved",
            "The words of the query that are explained, shaded by what each adds to the score of this example: blue (underlined) helped, orange (dotted) hurt. They add up to its score."
                .to_owned(),
        );
    }
    if cards().any(|card| !card.token_pairs.is_empty()) {
        add(
            "strongest pairs",
            "A word of the query, and the word of the training example through which it was moved.".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::is_sign;

    #[test]
    fn signs_are_told_from_words() {
        let found = ["<|endoftext|>", "</s>", "[SEP]", " ring", "<", "[a"].map(is_sign);
        assert_eq!(found, [true, true, true, false, false, false]);
    }
}
