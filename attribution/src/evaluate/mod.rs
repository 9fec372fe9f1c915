//! Scores against what retraining showed: LDS, retrieval (METHOD §6).
