//! What is wrong with a file in PEM (RFC 7468), without a byte of it: the library's own errors quote the line, which may be a private key that has lost its line ends.

use rustls::pki_types::pem::Error;

/// What is wrong, in words that fit behind a colon.
pub(crate) const fn fault(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => "a section has no end; are its line ends lost?",
        Error::IllegalSectionStart { .. } => "a section does not begin as it should; are its line ends lost?",
        Error::Base64Decode(_) => "what stands in a section is no Base64",
        Error::NoItemsFound => "there is none",
        Error::SectionTooLarge => "a section is too large",
        // The enum may grow, and a later member may quote the file too.
        Error::Io(_) | _ => "it is not to be read",
    }
}
