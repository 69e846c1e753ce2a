//! The treaty with the provider speaks of blocks and bytes: no folio, no lock of one, no cache stands in
//! its code. What a provider may do with a folio is in the hook of `guard`: get, attach, put.

/// Words that would let a provider touch a folio.
const WORDS: [&str; 5] = ["Folio", "Grip", "MappingCache", "crate::folio", "iomap::grip"];

fn words_in_code(source: &str) -> Vec<&'static str> {
    let code: Vec<&str> =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    WORDS.into_iter().filter(|word| code.contains(word)).collect()
}

#[test]
fn the_code_of_the_contract_names_none() {
    assert_eq!(words_in_code(include_str!("../contract.rs")), [""; 0]);
}

#[test]
fn a_contract_that_named_one_would_be_noticed() {
    let source = include_str!("../contract.rs");
    let shown = source.replace("fn size(&self)", "fn size(&self, folio: &Folio)");
    assert_eq!(words_in_code(&shown), ["Folio"]);
}
