//! Which special tokens are added to text, and to which files.

/// What a file's examples are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Training examples.
    Train,
    /// Queries.
    Queries,
}

/// To which files a choice applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// Neither.
    #[default]
    None,
    /// The training examples.
    Train,
    /// The queries.
    Queries,
    /// Training examples and queries.
    Both,
    /// The training examples, where the token is read and never predicted: no occurrence of it is a target.
    TrainInput,
    /// The queries, where no occurrence of the token is a target.
    QueriesInput,
    /// Training examples and queries, where no occurrence of the token is a target.
    BothInput,
}

impl Which {
    /// Whether the choice applies to a file of this role.
    pub fn applies(self, role: Role) -> bool {
        match self {
            Self::None => false,
            Self::Train | Self::TrainInput => role == Role::Train,
            Self::Queries | Self::QueriesInput => role == Role::Queries,
            Self::Both | Self::BothInput => true,
        }
    }

    /// Whether the token can be a target where the choice applies.
    pub fn is_target(self) -> bool {
        !matches!(self, Self::TrainInput | Self::QueriesInput | Self::BothInput)
    }
}

/// What becomes of the special tokens that the tokenizer's own post-processor adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FromTokenizer {
    /// They are added, and a text that has one at that place already is an error.
    #[default]
    Once,
    /// They are added, also to texts that have them already.
    Keep,
    /// They are added, also to texts that have them already, and what is asked for beside them is put to no text that has
    /// it: TRL writes end tokens so, and lets the tokenizer add what it adds.
    KeepOwn,
    /// They are not added.
    None,
}

/// Which special tokens rendered conversations get, whose template has written its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InConversations {
    /// What the tokenizer adds, where texts are to have that twice ([`FromTokenizer::Keep`]), else nothing.
    #[default]
    AsChosen,
    /// Nothing is added.
    Bare,
    /// What the tokenizer adds by itself.
    Tokenizer,
    /// What the tokenizer adds by itself, and an end token where the tokens do not end with it.
    TokenizerAndEnd,
}

/// Special tokens to add to text beside those that the tokenizer's own post-processor adds. Nothing is
/// added unless asked for: training scripts differ, and no file records what they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Specials {
    /// Where a begin-of-sequence token goes in front.
    pub add_bos: Which,
    /// Where an end-of-sequence token goes behind. It is a target, of a completion too, unless the choice says that
    /// it is only read.
    pub add_eos: Which,
    /// What becomes of those that the tokenizer adds.
    pub from_tokenizer: FromTokenizer,
    /// Whether a text that already has the token at that place gets none; else such a text is an error.
    pub only_where_missing: bool,
    /// Which of them conversations get.
    pub conversations: InConversations,
}

/// One of the two special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    Bos,
    Eos,
}

impl Special {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
        }
    }
}
