package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"porthole"
)

// showLink writes the link's rules, a line a direction.
func showLink(w io.Writer, s *porthole.LinkStatus, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(s)
	}
	settings := s.Settings.String()
	if settings == "" {
		settings = "impair=none"
	}
	_, err := io.WriteString(w, "link "+settings+"\n"+impairmentLines("link", s.In, s.Out))
	return err
}

// impairmentLines say what rules did: a line for each direction that has or had some.
func impairmentLines(of string, in, out *porthole.Impairment) string {
	var b strings.Builder
	for _, d := range []struct {
		name string
		i    *porthole.Impairment
	}{{"in", in}, {"out", out}} {
		if d.i != nil {
			fmt.Fprintf(&b, "%s %s: %s: %s\n", of, d.name, d.i.Rules, impairmentText(d.i))
		}
	}
	return b.String()
}

// impairmentText is "100 packets, 95 passed; 5 lost, 95 delayed; 3 wait".
func impairmentText(i *porthole.Impairment) string {
	var did []string
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{i.Lost, "lost"}, {i.SYNDropped, "SYNs dropped"}, {i.OverLimit, "over the limit"}, {i.Aged, "dropped by CoDel"},
		{i.Corrupted, "corrupted"}, {i.Duplicated, "duplicated"}, {i.Delayed, "delayed"}, {i.Reordered, "reordered"},
		{i.Queued, "queued for the rate"}, {i.Refused, "refused by the device"},
	} {
		if c.n > 0 {
			did = append(did, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	text := fmt.Sprintf("%d packets, %d passed", i.Arrived, i.Passed)
	if len(did) > 0 {
		text += "; " + strings.Join(did, ", ")
	}
	if i.Waiting > 0 {
		text += fmt.Sprintf("; %d wait (%d bytes)", i.Waiting, i.WaitingBytes)
	}
	return text
}
