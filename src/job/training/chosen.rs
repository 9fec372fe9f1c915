//! Which examples of training are scored, where not all of them are.

/// The examples of a stage that are scored, where not all of them are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::job) struct Chosen {
    /// Which of all examples they are, in their order.
    pub places: Vec<usize>,
    /// Whether each of them is of the control sample, drawn at random from what is no candidate.
    pub is_control: Vec<bool>,
    /// How many examples there are.
    pub of: usize,
}

impl Chosen {
    /// Examples that are candidates.
    pub(in crate::job) fn candidates(&self) -> usize {
        self.is_control.iter().filter(|is| !**is).count()
    }
}
