//! Examples as they would be if they had been read in another way: to try which way training had.

use serde_json::Map;

use super::dataset::{Dataset, Kind};
use super::excerpt::ExcerptOf;
use super::special_tokens::resolve;
use super::specials::Special;
use super::tokenizer::Tokenizer;
use super::tokens::TokenDataset;

impl Tokenizer {
    /// The end-of-sequence token, by its text or as the files name one below the vocabulary's size.
    pub(crate) fn end_token(&self, vocabulary: usize, chosen: Option<&str>) -> Option<u32> {
        resolve(self, Special::Eos, vocabulary, chosen).ok()
    }

    /// The begin-of-sequence token, if the files name one below the vocabulary's size.
    pub(crate) fn begin_token(&self, vocabulary: usize) -> Option<u32> {
        resolve(self, Special::Bos, vocabulary, None).ok()
    }
}

impl TokenDataset {
    /// Each token with what it has as a label, as [`TokenDataset::push`] takes them.
    fn labelled_tokens(&self, i: usize) -> (Vec<u32>, Vec<Option<u32>>) {
        let labels = std::iter::once(None).chain(self.predicted(i).take(self.tokens(i).len() - 1));
        (self.tokens(i).to_vec(), labels.collect())
    }

    fn rebuilt(&self, examples: impl Iterator<Item = (Vec<u32>, Vec<Option<u32>>)>) -> Option<Dataset> {
        let mut altered = Self::new(None);
        let has_target = |labels: &[Option<u32>]| labels.iter().skip(1).any(Option::is_some);
        for (i, (tokens, labels)) in examples.filter(|(_, labels)| has_target(labels)).enumerate() {
            altered.push(i.to_string(), &Map::new(), ExcerptOf::Tokens, &tokens, &labels);
        }
        let altered = Dataset::new(Kind::Tokens(altered));
        (!altered.is_empty()).then_some(altered)
    }

    /// The examples with `token` in front of each, where it is read and no target; none is longer than `most`.
    pub(crate) fn with_front(&self, token: u32, most: Option<usize>) -> Option<Dataset> {
        let most = most.unwrap_or(usize::MAX);
        self.rebuilt((0..self.count()).map(|i| {
            let (mut tokens, mut labels) = self.labelled_tokens(i);
            // the token that was the first now has something before it
            if self.is_target(i).iter().skip(1).all(|&target| target) {
                labels[0] = Some(tokens[0]);
            }
            tokens.insert(0, token);
            labels.insert(0, None);
            tokens.truncate(most);
            labels.truncate(most);
            (tokens, labels)
        }))
    }

    /// The examples without their first token.
    pub(crate) fn without_front(&self) -> Option<Dataset> {
        self.rebuilt((0..self.count()).map(|i| {
            let (tokens, labels) = self.labelled_tokens(i);
            (tokens[1..].to_vec(), labels[1..].to_vec())
        }))
    }

    /// The examples joined in their order and cut into blocks of `length` tokens, every one of which is a target.
    pub(crate) fn in_blocks(&self, length: usize) -> Option<Dataset> {
        let all: Vec<u32> = (0..self.count()).flat_map(|i| self.tokens(i)).copied().collect();
        let block = |tokens: &[u32]| (tokens.to_vec(), tokens.iter().copied().map(Some).collect());
        self.rebuilt(all.chunks_exact(length.max(2)).map(block))
    }

    fn count(&self) -> usize {
        self.examples().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> TokenDataset {
        let mut data = TokenDataset::new(None);
        data.push("a".into(), &Map::new(), ExcerptOf::Tokens, &[1, 2, 3], &[None, Some(2), Some(3)]);
        data.push("b".into(), &Map::new(), ExcerptOf::Tokens, &[4, 5, 6, 7], &[None, None, Some(6), Some(7)]);
        data
    }

    fn of(dataset: &Dataset) -> Vec<(Vec<u32>, Vec<Option<u32>>)> {
        let Kind::Tokens(tokens) = dataset.kind() else { unreachable!("tokens were given") };
        (0..dataset.len()).map(|i| (tokens.tokens(i).to_vec(), tokens.predicted(i).collect())).collect()
    }

    #[test]
    fn a_token_in_front_makes_the_first_a_target_of_whole_texts_alone() {
        let altered = of(&tokens().with_front(9, Some(4)).unwrap());
        assert_eq!(altered[0], (vec![9, 1, 2, 3], vec![Some(1), Some(2), Some(3), None]));
        assert_eq!(altered[1], (vec![9, 4, 5, 6], vec![None, None, Some(6), None]));
    }

    #[test]
    fn without_its_first_token_an_example_begins_with_the_second() {
        let altered = of(&tokens().without_front().unwrap());
        assert_eq!(altered[0], (vec![2, 3], vec![Some(3), None]));
        assert_eq!(altered[1], (vec![5, 6, 7], vec![Some(6), Some(7), None]));
    }

    #[test]
    fn blocks_join_examples() {
        let altered = of(&tokens().in_blocks(3).unwrap());
        assert_eq!(
            altered,
            [(vec![1, 2, 3], vec![Some(2), Some(3), None]), (vec![4, 5, 6], vec![Some(5), Some(6), None])]
        );
        assert!(tokens().in_blocks(8).is_none());
    }
}
