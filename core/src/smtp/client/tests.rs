//! Dialogues with a [`Session`].
