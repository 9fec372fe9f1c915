//! Documents joined end to end and cut into blocks of equal length, as language models are often trained.

use std::collections::VecDeque;

/// Joins documents' tokens and hands out full blocks.
///
/// A document that does not fit goes on in the next block. The first token of a document that begins
/// inside a block is a target if its label says so, predicted by the end of the document before it: that
/// is what a training loop computes that packs so, and attention crosses the boundary as well.
#[derive(Debug)]
pub(super) struct Packer {
    length: usize,
    tokens: Vec<u32>,
    labels: Vec<Option<u32>>,
    /// Where the next block starts in `tokens`.
    start: usize,
    /// Documents from the next block on: where each ends in `tokens`, and its id.
    documents: VecDeque<(usize, String)>,
    /// Tokens that were left out.
    dropped: usize,
}

/// One block, borrowed from the packer.
pub(super) struct Block<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) labels: &'a [Option<u32>],
    /// Ids of the documents of which it holds a part.
    pub(super) documents: Vec<String>,
}

impl Packer {
    /// Blocks of `length` tokens, which must be positive.
    pub(super) fn new(length: usize) -> Self {
        Self { length, tokens: Vec::new(), labels: Vec::new(), start: 0, documents: VecDeque::new(), dropped: 0 }
    }

    pub(super) fn push(&mut self, id: String, tokens: &[u32], labels: &[Option<u32>]) {
        // What has been handed out is dropped once for each document, so that the cost stays linear.
        self.tokens.drain(..self.start);
        self.labels.drain(..self.start);
        for (end, _) in &mut self.documents {
            *end -= self.start;
        }
        self.start = 0;
        self.tokens.extend_from_slice(tokens);
        self.labels.extend_from_slice(labels);
        self.documents.push_back((self.tokens.len(), id));
    }

    /// The next full block, if there is one.
    pub(super) fn block(&mut self) -> Option<Block<'_>> {
        let end = self.start + self.length;
        (end <= self.tokens.len()).then(|| self.up_to(end))
    }

    /// What fills no block, as a shorter one. The blocks that are full must have been taken.
    pub(super) fn shorter_block(&mut self) -> Option<Block<'_>> {
        let end = self.tokens.len();
        (end > self.start).then(|| self.up_to(end))
    }

    fn up_to(&mut self, end: usize) -> Block<'_> {
        let start = self.start;
        self.start = end;
        let mut documents = Vec::new();
        while let Some((document_end, id)) = self.documents.front() {
            documents.push(id.clone());
            if *document_end > end {
                break;
            }
            let at_end = *document_end == end;
            self.documents.pop_front();
            if at_end {
                break;
            }
        }
        Block { tokens: &self.tokens[start..end], labels: &self.labels[start..end], documents }
    }

    /// Tokens that fill no block: those that are left, and those that were dropped.
    pub(super) fn rest(&self) -> usize {
        self.tokens.len() - self.start + self.dropped
    }

    /// Leaves out what fills no block so far. The blocks that are full must have been taken.
    pub(super) fn drop_rest(&mut self) {
        self.dropped = self.rest();
        self.tokens.clear();
        self.labels.clear();
        self.documents.clear();
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_name_their_documents() {
        let mut packer = Packer::new(4);
        let mut blocks = Vec::new();
        for (id, tokens) in
            [("a", vec![1, 2, 3]), ("b", vec![4]), ("c", vec![5, 6, 7, 8, 9, 10, 11, 12, 13]), ("d", vec![14, 15])]
        {
            let labels: Vec<_> = tokens.iter().map(|&t| Some(t).filter(|t| t % 2 == 0)).collect();
            packer.push(id.into(), &tokens, &labels);
            while let Some(block) = packer.block() {
                blocks.push((block.tokens.to_vec(), block.labels.to_vec(), block.documents.join(" ")));
            }
        }
        let block = |tokens: [u32; 4], documents: &str| {
            (tokens.to_vec(), tokens.map(|t| Some(t).filter(|t| t % 2 == 0)).to_vec(), documents.to_owned())
        };
        assert_eq!(blocks, [block([1, 2, 3, 4], "a b"), block([5, 6, 7, 8], "c"), block([9, 10, 11, 12], "c")]);
        assert_eq!(packer.rest(), 3, "13, 14, 15");
        packer.push("e".into(), &[16], &[None]);
        assert_eq!(packer.block().map(|block| block.documents.join(" ")), Some("c d e".into()));
        assert!(packer.shorter_block().is_none(), "nothing is left");
        packer.push("f".into(), &[17, 18, 19, 20, 21], &[None; 5]);
        assert_eq!(packer.block().map(|block| block.tokens.len()), Some(4));
        let rest = packer.shorter_block().map(|block| (block.tokens.to_vec(), block.documents.join(" ")));
        assert_eq!(rest, Some((vec![21], "f".into())));
        assert!(packer.shorter_block().is_none() && packer.rest() == 0);
    }
}
