//! How long work reports its progress, and how it is asked to stop.

/// A sweep over data, or another piece of work that takes long enough to be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pass {
    /// Sums for the input and output covariances.
    Covariance,
    /// Eigendecompositions.
    Eigendecomposition,
    /// Squared gradients in the eigenbasis.
    Lambda,
    /// Query gradients and their inverse-Hessian-vector products.
    Queries,
    /// Products with the Gauss-Newton matrix, for refined solves of the queries' vectors.
    Products,
    /// Training gradients against the queries' vectors.
    Scores,
    /// Every training example against itself.
    SelfInfluence,
    /// Scores of the ranked training examples by token.
    Tokens,
    /// Scores of the ranked training examples in variants of them.
    Intervals,
    /// Derivatives of queries, backwards through the steps of training.
    Reverse,
    /// What each target token of a query asks for: gradients and vectors of single tokens.
    QueryTokens,
}

impl Pass {
    /// One word, as it stands in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Covariance => "covariance",
            Self::Eigendecomposition => "eigendecomposition",
            Self::Lambda => "lambda",
            Self::Queries => "queries",
            Self::Products => "products",
            Self::Scores => "scores",
            Self::SelfInfluence => "self-influence",
            Self::Tokens => "tokens",
            Self::Intervals => "intervals",
            Self::Reverse => "reverse",
            Self::QueryTokens => "query tokens",
        }
    }

    /// What is counted: `examples` for most passes.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Eigendecomposition => "covariances",
            Self::Queries => "queries",
            Self::Reverse => "steps",
            Self::QueryTokens => "tokens",
            _ => "examples",
        }
    }
}

/// What a library says while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The next pass is at one of several checkpoints.
    Checkpoint {
        /// The checkpoint's number, counted from 1.
        number: u64,
        /// How many there are.
        count: u64,
    },
    /// A pass begins; `done` of its `total` units were found finished from an earlier run.
    Started {
        /// The pass that begins.
        pass: Pass,
        /// Units already there.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// `units` more are done.
    Advanced {
        /// Which.
        pass: Pass,
        /// How many more.
        units: u64,
    },
    /// The whole result was found from an earlier run.
    Reused {
        /// Which.
        pass: Pass,
    },
    /// The pass succeeded; never sent after a failure.
    Finished {
        /// Which.
        pass: Pass,
    },
}

/// Receives events, on any thread; must not block. `()` is the silent observer.
pub trait Observer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);

    /// Whether the work should stop at the next place where it can be taken up again.
    fn interrupted(&self) -> bool {
        false
    }
}

impl Observer for () {
    fn event(&self, _: Event) {}
}
