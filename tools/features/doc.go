// SPDX-License-Identifier: Apache-2.0

// Command features writes the table of features and backends into
// docs/protocol.md, from reports of the conformance guest.
//
//	uringpv run --guest conformance --report json >report.json
//	features docs/protocol.md report.json...
//
// With several reports, of several hosts, a case that one of them could not try
// is taken from another that could.
//
// It owns the table's form and the place in the document; it must not know how a
// guest is run. Invariant: no word in the table that a report has not.
package main
