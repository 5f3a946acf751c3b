//! How COPY data is cut into rows.

/// How COPY data is cut into rows and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: String, header: bool },
    Csv { delimiter: u8, quote: u8, escape: u8, null: String, header: bool, force_null: bool },
    Binary,
}
