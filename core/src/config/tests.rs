//! Every key of every constructor, each value form, and hostile tables.
