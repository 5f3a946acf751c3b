//! Rows of several shards as arrays, one per column: parameters of the statement that computes an answer
//! over them.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{PgError, sqlstate};
use crate::wire::backend::view::DataRow;

/// What may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub rows: usize,
    pub bytes: usize,
}

/// Rows as they come together. Each begins with the index of its fragment (`int2`, binary), then the
/// columns of all fragments follow in order, those of others NULL.
#[derive(Debug)]
pub struct Arrays {
    fragments: Vec<Fragment>,
    bounds: Bounds,
    rows: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Fragment {
    /// Columns of the fragments before it.
    before: usize,
    columns: Vec<Column>,
    rows: i64,
}

/// A one-dimensional array in the binary format of Postgres' `array_recv`: dimensions, whether there
/// are NULLs, element type; length and lower bound; then each element's length (-1: NULL) and bytes.
#[derive(Debug)]
struct Column {
    data: BytesMut,
    has_null: bool,
    type_oid: u32,
}

const HEADER: usize = 20;

impl Arrays {
    /// No rows yet of fragments with columns of these types.
    pub fn new(fragments: &[Vec<u32>], bounds: Bounds) -> Self {
        let mut before = 0;
        let fragments = fragments
            .iter()
            .map(|types| {
                let column = |oid: &u32| Column {
                    data: BytesMut::zeroed(HEADER),
                    has_null: false,
                    type_oid: *oid,
                };
                let columns: Vec<Column> = types.iter().map(column).collect();
                before += columns.len();
                Fragment { before: before - columns.len(), columns, rows: 0 }
            })
            .collect();
        Self { fragments, bounds, rows: 0, bytes: 0 }
    }

    /// Takes a DataRow.
    ///
    /// # Errors
    /// 53400 above the bounds; 08P01 for a row of another form.
    pub fn row(&mut self, frame: &[u8]) -> Result<(), PgError> {
        let mut values = DataRow::read(frame)?;
        let index = match values.next() {
            Some(Ok(Some(range))) => <[u8; 2]>::try_from(&frame[range]).ok(),
            _ => None,
        };
        let fragment = index
            .and_then(|it| self.fragments.get_mut(usize::from(u16::from_be_bytes(it))))
            .ok_or_else(unexpected)?;
        (self.rows, self.bytes) = (self.rows + 1, self.bytes + frame.len());
        fragment.rows += 1;
        fragment.take(values.skip(fragment.before), frame)?;
        self.check()
    }

    /// Takes a DataRow of this fragment, which has no columns of others.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn row_of(&mut self, fragment: usize, frame: &[u8]) -> Result<(), PgError> {
        let fragment = self.fragments.get_mut(fragment).ok_or_else(unexpected)?;
        (self.rows, self.bytes) = (self.rows + 1, self.bytes + frame.len());
        fragment.rows += 1;
        fragment.take(DataRow::read(frame)?.skip(1), frame)?;
        self.check()
    }

    fn check(&self) -> Result<(), PgError> {
        let (key, limit, unit): (&'static &'static str, _, _) =
            match (self.rows > self.bounds.rows, self.bytes > self.bounds.bytes) {
                (true, _) => (&"limits.gather_max_rows", self.bounds.rows, "rows"),
                (_, true) => (&"limits.gather_max_bytes", self.bounds.bytes, "bytes"),
                _ => return Ok(()),
            };
        let message = format!("the statement needs more than {limit} {unit} of several shards");
        Err(PgError::limit(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, message, key, limit)
            .hint(format!("Narrow it, name one tenant, or raise {key}.")))
    }

    /// The array of one column so far, and its length.
    pub fn column(&self, fragment: usize, column: usize) -> Option<(Bytes, i64)> {
        let fragment = self.fragments.get(fragment)?;
        let found = fragment.columns.get(column)?;
        let copied =
            Column { data: found.data.clone(), has_null: found.has_null, type_oid: found.type_oid };
        Some((copied.finish(fragment.rows), fragment.rows))
    }

    /// The parameters, binary: for each fragment an array per column, or the number of its rows (`int8`)
    /// if it has none.
    pub fn finish(self) -> Vec<Bytes> {
        let mut parameters = Vec::new();
        for fragment in self.fragments {
            if fragment.columns.is_empty() {
                parameters.push(Bytes::copy_from_slice(&fragment.rows.to_be_bytes()));
            }
            let columns = fragment.columns.into_iter();
            parameters.extend(columns.map(|it| it.finish(fragment.rows)));
        }
        parameters
    }
}

impl Fragment {
    fn take(
        &mut self,
        mut values: impl Iterator<Item = Result<Option<Range<usize>>, PgError>>,
        frame: &[u8],
    ) -> Result<(), PgError> {
        for column in &mut self.columns {
            match values.next().ok_or_else(unexpected)?? {
                Some(range) => {
                    column.data.put_i32(range.len() as i32);
                    column.data.put_slice(&frame[range]);
                }
                None => {
                    column.has_null = true;
                    column.data.put_i32(-1);
                }
            }
        }
        Ok(())
    }
}

impl Column {
    fn finish(mut self, rows: i64) -> Bytes {
        let dimensions = i32::from(rows > 0);
        let mut header = BytesMut::with_capacity(HEADER);
        header.put_i32(dimensions);
        header.put_i32(i32::from(self.has_null));
        header.put_u32(self.type_oid);
        header.put_i32(rows as i32);
        header.put_i32(1);
        self.data[..HEADER].copy_from_slice(&header);
        if rows == 0 {
            self.data.truncate(HEADER - 8);
        }
        self.data.freeze()
    }
}

fn unexpected() -> PgError {
    PgError::new(sqlstate::PROTOCOL_VIOLATION, "a shard has sent a row of another form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend;

    fn row(values: &[Option<&[u8]>]) -> BytesMut {
        let mut out = BytesMut::new();
        backend::data_row(&mut out, values);
        out
    }

    #[test]
    fn rows_become_arrays_per_fragment_and_column() {
        let bounds = Bounds { rows: 3, bytes: 1000 };
        let mut arrays = Arrays::new(&[vec![23], vec![25], vec![]], bounds);
        arrays.row(&row(&[Some(&[0, 0]), Some(&[0, 0, 0, 7]), None])).unwrap();
        arrays.row(&row(&[Some(&[0, 0]), None, None])).unwrap();
        arrays.row(&row(&[Some(&[0, 2]), None, None])).unwrap();
        let found = arrays.finish();
        let mut expected = Vec::new();
        for number in [1_i32, 1, 23, 2, 1, 4, 7, -1] {
            expected.extend(number.to_be_bytes());
        }
        assert_eq!(found[0], expected);
        assert_eq!(found[1].as_ref(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25]);
        assert_eq!(found[2].as_ref(), 1_i64.to_be_bytes());
    }

    #[test]
    fn bounds_and_rows_of_another_form_are_told() {
        let bounds = Bounds { rows: 1, bytes: 1000 };
        let mut arrays = Arrays::new(&[vec![23]], bounds);
        let one = row(&[Some(&[0, 0]), None]);
        arrays.row(&one).unwrap();
        let error = arrays.row(&one).unwrap_err();
        assert_eq!((error.code.as_ref(), error.detail.is_some()), ("53400", true));
        assert_eq!(arrays.row(&row(&[Some(&[0, 9])])).unwrap_err().code, "08P01");
        assert_eq!(arrays.row(&row(&[Some(&[0, 0])])).unwrap_err().code, "08P01");
        assert_eq!(arrays.row(&row(&[])).unwrap_err().code, "08P01");
    }
}
