//! Kernels of the recipes: a part of a JSON document, and a tokenizer.

mod tokenizer;

use std::sync::{Arc, PoisonError, RwLock};

use hybridloop_kernel::{kernel, module, Ctx, Error};
use tokenizer::Vocabulary;

/// The part of a JSON document to which a pointer such as /items/0 leads, as JSON.
#[kernel]
fn json_part(document: &[u8], pointer: &str) -> Result<String, Error> {
    let parsed: serde_json::Value =
        serde_json::from_slice(document).map_err(|error| Error::invalid(error.to_string()))?;
    match parsed.pointer(pointer) {
        Some(part) => Ok(part.to_string()),
        None => Err(Error::new(
            hybridloop_kernel::Code::NotFound,
            format!("nothing is at {pointer:?}"),
        )),
    }
}

/// Vocabularies stay loaded, and kernels refer to them by number: a call takes no time for them.
static VOCABULARIES: RwLock<Vec<Arc<Vocabulary>>> = RwLock::new(Vec::new());

/// Loads a vocabulary, a word per line; gives its number.
#[kernel]
fn load_vocabulary(words: &str) -> usize {
    let vocabulary = Arc::new(Vocabulary::new(words.lines()));
    let mut all = VOCABULARIES.write().unwrap_or_else(PoisonError::into_inner);
    all.push(vocabulary);
    all.len() - 1
}

/// The tokens of a text by WordPiece, as places in the vocabulary; u32.
#[kernel]
fn tokens(ctx: &Ctx, text: &str, vocabulary: usize) -> Result<Vec<u32>, Error> {
    let vocabulary = VOCABULARIES
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(vocabulary)
        .cloned()
        .ok_or_else(|| Error::invalid("the vocabulary is not loaded"))?;
    let mut found = Vec::new();
    for line in text.lines() {
        // Ends the kernel when the job is cancelled or its deadline passes.
        ctx.check()?;
        vocabulary.tokenize(line, &mut found);
    }
    Ok(found)
}

module!("recipes", [json_part, load_vocabulary, tokens]);
