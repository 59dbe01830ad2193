//! The subject of a certificate as text, for records: `["C=NO", "O=Example", "CN=mx.example.com"]`.
//!
//! Invariant: whatever the peer put into its certificate, the result is a bounded list; a subject that
//! can't be read is empty. Decides nothing: trust is rustls's.
use kumo_core::limits::{TLS_SUBJECT_ATTRIBUTE_CHARS, TLS_SUBJECT_ATTRIBUTES};
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Result, BERReaderSeq, Tag};

/// RFC 4519 short names, by object identifier.
const SHORT_NAMES: &[(&[u64], &str)] = &[
    (&[2, 5, 4, 3], "CN"),
    (&[2, 5, 4, 5], "serialNumber"),
    (&[2, 5, 4, 6], "C"),
    (&[2, 5, 4, 7], "L"),
    (&[2, 5, 4, 8], "ST"),
    (&[2, 5, 4, 10], "O"),
    (&[2, 5, 4, 11], "OU"),
    (&[1, 2, 840, 113_549, 1, 9, 1], "emailAddress"),
];

/// The attributes in the order of the certificate.
pub(super) fn subject(certificate: &[u8]) -> Vec<String> {
    let mut attributes = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|certificate| {
            let attributes = certificate.next().read_sequence(signed_part)?;
            skip(certificate, 2)?; // signature algorithm, signature
            Ok(attributes)
        })
    })
    .unwrap_or_default();
    attributes.truncate(TLS_SUBJECT_ATTRIBUTES);
    attributes
}

/// RFC 5280 4.1: version, serial number, algorithm, issuer, validity, subject, key, extensions.
fn signed_part(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Vec<String>> {
    fields
        .read_optional(|version| version.read_tagged(Tag::context(0), |inner| inner.read_der()))?;
    skip(fields, 4)?;
    let mut attributes = Vec::new();
    fields.next().read_sequence_of(|set| {
        set.read_set_of(|attribute| {
            attributes.push(attribute.read_sequence(type_and_value)?);
            Ok(())
        })
    })?;
    skip(fields, 1)?;
    while fields.read_optional(|extra| extra.read_der())?.is_some() {}
    Ok(attributes)
}

fn type_and_value(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<String> {
    let kind = fields.next().read_oid()?;
    let value = fields.next().read_tagged_der()?;
    // UTF8String, PrintableString, IA5String and their kind; of the rest, what can be made out.
    let text = String::from_utf8_lossy(value.value());
    Ok(format!("{}={text}", type_name(&kind)).chars().take(TLS_SUBJECT_ATTRIBUTE_CHARS).collect())
}

fn type_name(kind: &ObjectIdentifier) -> String {
    let known =
        SHORT_NAMES.iter().find(|(identifier, _)| *identifier == kind.components().as_slice());
    known.map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned())
}

fn skip(fields: &mut BERReaderSeq<'_, '_>, count: usize) -> ASN1Result<()> {
    (0..count).try_for_each(|_| fields.next().read_der().map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut parameters = CertificateParams::new([]).expect("no names is fine");
        parameters.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            parameters.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn attributes_are_named_and_in_order() {
        let der = certificate(&[
            (DnType::CountryName, "NO"),
            (DnType::OrganizationName, "Ærlig Post"),
            (DnType::CustomDnType(vec![2, 5, 4, 97]), "x"),
            (DnType::CommonName, "mx.example.com"),
        ]);
        assert_eq!(subject(&der), ["C=NO", "O=Ærlig Post", "2.5.4.97=x", "CN=mx.example.com"]);
    }

    #[test]
    fn a_certificate_without_subject_has_none() {
        assert_eq!(subject(&certificate(&[])), Vec::<String>::new());
    }

    #[test]
    fn a_huge_subject_is_cut() {
        let long = "a".repeat(5_000);
        let many: Vec<_> = (0..40)
            .map(|n| (DnType::CustomDnType(vec![2, 5, 4, 200 + n]), long.as_str()))
            .collect();
        let attributes = subject(&certificate(&many));
        assert_eq!(attributes.len(), TLS_SUBJECT_ATTRIBUTES);
        assert!(attributes.iter().all(|text| text.len() == TLS_SUBJECT_ATTRIBUTE_CHARS));
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(subject(&octets).len() <= TLS_SUBJECT_ATTRIBUTES);
        }

        #[test]
        fn a_damaged_certificate_never_panics(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut der = certificate(&[(DnType::CommonName, "mx.example.com")]);
            let at = at.index(der.len());
            der[at] = with;
            prop_assert!(subject(&der).len() <= TLS_SUBJECT_ATTRIBUTES);
            prop_assert!(subject(&der[..at]).is_empty());
        }
    }
}
