package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/columns"
	"porthole/cmd/porthole/internal/control"
	"porthole/services"
)

type captureCmd struct {
	askFlags
	Write    string        `short:"w" placeholder:"FILE" help:"The pcapng file; - is standard output."`
	Port     []string      `placeholder:"PORT" help:"Only to and from this port (80/tcp) or lane (closed, link, icmp, host-lane). May come again."`
	Fate     []string      `placeholder:"FATE" help:"Only packets with this fate (accept-queue-full). May come again."`
	Snaplen  int           `short:"s" default:"0" placeholder:"BYTES" help:"Keep so much of each packet (0: all)."`
	Duration time.Duration `placeholder:"TIME" help:"End after this time, such as 30s."`
	Count    uint64        `short:"c" default:"0" placeholder:"N" help:"End after so many records."`
	Places   bool          `help:"A copy at each station that a packet came to, each an interface of the file."`
	Buffer   services.Size `placeholder:"SIZE" help:"Memory for what is not written yet (16MiB)."`
	List     bool          `xor:"what" help:"Show the captures of the host instead."`
	Stop     string        `xor:"what" placeholder:"ID" help:"End one of them instead."`
}

// Help is shown under `porthole capture --help`.
func (captureCmd) Help() string {
	return "Every packet once its fate is known, with a comment: fate, port, how many packets it found queued, how long it waited, its flow. " +
		"`porthole capture -w - | wireshark -k -i -` looks on live; the filter frame.comment contains \"accept-queue-full\" finds what was refused. " +
		"Ctrl-C ends the file."
}

// Run captures until it is told to end.
func (c *captureCmd) Run(con *console) error {
	o, err := c.options()
	if err != nil {
		return usageError{err}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	switch {
	case c.List:
		return c.list(con, client)
	case c.Stop != "":
		s, err := client.StopCapture(context.Background(), c.Stop)
		if err != nil {
			return err
		}
		return c.show(con.out, &s)
	}
	out, err := c.create(con)
	if err != nil {
		return err
	}
	s, err := c.capture(con, client, o, out)
	if err != nil {
		return err
	}
	summary := con.err
	if c.JSON && out != con.out {
		summary = con.out
	}
	return c.show(summary, &s)
}

// options reads the flags. What is wrong with them is told before any host is asked.
func (c *captureCmd) options() (o porthole.CaptureOptions, err error) {
	o = porthole.CaptureOptions{
		Ports: c.Port, Fates: c.Fate, Snaplen: c.Snaplen, Duration: c.Duration, Count: c.Count, Places: c.Places,
		BufferBytes: int(min(c.Buffer, math.MaxInt32)),
	}
	if c.Write == "" && !c.List && c.Stop == "" {
		return o, errors.New("capture: name the file with -w FILE; -w - is standard output")
	}
	if err := o.Check(); err != nil {
		return o, fmt.Errorf("--%w", err)
	}
	return o, nil
}

// create opens the file that is written to.
func (c *captureCmd) create(con *console) (*os.File, error) {
	if c.Write != "-" {
		// Not for reading, so that a named pipe ends with its reader; for its owner alone,
		// since packets hold passwords.
		f, err := os.OpenFile(c.Write, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("capture: %w", err)
		}
		return f, nil
	}
	if isTerminal(con.out) {
		return nil, usageError{errors.New("capture: standard output is a terminal; name a file, or write to a program: porthole capture -w - | tshark -r -")}
	}
	return con.out, nil
}

// capture runs one from its beginning to the end of its file.
func (c *captureCmd) capture(con *console, client *control.Client, o porthole.CaptureOptions, out *os.File) (s porthole.CaptureStatus, err error) {
	defer func() {
		if out != con.out {
			if cerr := out.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("capture: %w", cerr)
			}
		}
	}()
	ctx, stop := untilSignal()
	defer stop()
	if s, err = client.StartCapture(ctx, o); err != nil {
		return s, unlessDone(ctx, err)
	}
	stream, err := client.StreamCapture(context.Background(), s.ID)
	if err != nil {
		return s, err
	}
	defer func() { _ = stream.Close() }()
	fmt.Fprintf(con.err, "porthole: capturing %s on %s (%s); Ctrl-C ends the file\n", s.ID, s.Device, client.Name)
	copied := make(chan struct{})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		select {
		case <-ctx.Done():
			stop() // a second Ctrl-C does not wait for the file's end
			_, _ = client.StopCapture(context.Background(), s.ID)
		case <-copied:
		}
	}()
	file := captureFile{f: out}
	_, err = io.Copy(&file, stream)
	close(copied)
	<-asked
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return s, fmt.Errorf("capture: %w", err) // the disk is full, or its like
	}
	if err != nil || !file.ended {
		text := "capture: host %s was cut off after %d records"
		if !file.trim() {
			text += ", the last one in its middle"
		}
		return s, fmt.Errorf(text, client.Name, file.records)
	}
	if end, err := client.Capture(context.Background(), s.ID); err == nil {
		return end, nil
	}
	s.State, s.Reason, s.Written = "ended", "host stopped", file.records
	s.Seen, s.Accepted, s.Missed = file.stats.Seen, file.stats.Accepted, file.stats.Missed
	return s, nil
}

// show writes what became of a capture: one line, or its JSON.
func (c *captureCmd) show(w io.Writer, s *porthole.CaptureStatus) error {
	if c.JSON {
		return json.NewEncoder(w).Encode(s)
	}
	_, err := fmt.Fprintf(w, "%s %s: %d records, %d of %d packets wanted, %d missed\n", s.ID, s.Reason, s.Written, s.Accepted, s.Seen, s.Missed)
	return err
}

func (c *captureCmd) list(con *console, client *control.Client) error {
	all, err := client.Captures(context.Background())
	if err != nil {
		return err
	}
	if c.JSON {
		return lines(con.out, all)
	}
	rows := [][]string{{"ID", "STATE", "RECORDS", "WANTED", "SEEN", "MISSED", "OF"}}
	for i := range all {
		s := &all[i]
		state := s.State
		if s.Reason != "" {
			state += " (" + s.Reason + ")"
		}
		of := append(append([]string(nil), s.Options.Ports...), s.Options.Fates...)
		if len(of) == 0 {
			of = []string{"everything"}
		}
		rows = append(rows, []string{s.ID, state, fmt.Sprint(s.Written), fmt.Sprint(s.Accepted), fmt.Sprint(s.Seen), fmt.Sprint(s.Missed), strings.Join(of, " ")})
	}
	_, err = io.WriteString(con.out, columns.Text(rows, 2, 3, 4, 5))
	return err
}
