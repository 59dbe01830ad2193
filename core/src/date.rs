//! Dates as text: RFC 5322 for header fields, RFC 3339 for records, segment names. Always UTC.
