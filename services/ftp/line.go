package ftp

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

const (
	// maxLine bounds a command line without its end; a longer one gets 500.
	maxLine = 4096
	// maxSkip bounds what is read in vain (the rest of a long line, Telnet
	// commands) before a line ends; more ends the session.
	maxSkip = 1 << 20
)

// Telnet commands (RFC 854). A user may send them ahead of ABOR (RFC 959, 4.1.3).
const (
	telnetSE   = 0xF0
	telnetDM   = 0xF2
	telnetIP   = 0xF4
	telnetSB   = 0xFA
	telnetWILL = 0xFB
	telnetDO   = 0xFD
	telnetDONT = 0xFE
	telnetIAC  = 0xFF
	telnetLow  = 0xEC // the least octet that is a command after IAC
)

// input is one thing that came over the control connection.
type input struct {
	line    string
	tooLong bool   // line is what was kept of a line over maxLine
	telnet  []byte // an answer that is owed to a Telnet option
	err     error  // the connection ended
}

var errSkipped = errors.New("control connection sent too much without a line end")

// lineReader cuts the control connection into lines and takes the Telnet commands
// out. A line ends at LF; one CR before it belongs to the end. Where a client sent
// its Synch with urgent data, a kernel takes one octet out of the stream, either
// the data mark (leaving IAC and the first letter of ABOR) or the first IAC
// (leaving IP at the start of a line): both are understood.
type lineReader struct {
	r       *bufio.Reader
	line    []byte // bounded by maxLine+1: room for the CR
	skipped int
	long    bool
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 4096), line: make([]byte, 0, 128)}
}

// next returns the next line, Telnet answer or the error that ends the stream. A
// line without an end before EOF is not a line.
func (lr *lineReader) next() input {
	for {
		if lr.skipped > maxSkip {
			return input{err: errSkipped}
		}
		b, err := lr.r.ReadByte()
		if err != nil {
			return input{err: err}
		}
		switch {
		case b == '\n':
			in := input{line: strings.TrimSuffix(string(lr.line), "\r"), tooLong: lr.long}
			if len(in.line) > maxLine {
				in.line, in.tooLong = in.line[:maxLine], true
			}
			lr.line, lr.skipped, lr.long = lr.line[:0], 0, false
			return in
		case b == telnetIAC:
			answer, literal, err := lr.command()
			if err != nil {
				return input{err: err}
			}
			if answer != nil {
				return input{telnet: answer}
			}
			if literal {
				lr.add(telnetIAC)
			}
		case (b == telnetIP || b == telnetDM) && len(lr.line) == 0:
			lr.skipped++
		default:
			lr.add(b)
		}
	}
}

func (lr *lineReader) add(b byte) {
	if len(lr.line) > maxLine {
		lr.long = true
		lr.skipped++
		return
	}
	lr.line = append(lr.line, b)
}

// command reads what follows an IAC. Every option is refused (RFC 1123, 4.1.2.12).
func (lr *lineReader) command() (answer []byte, literal bool, err error) {
	lr.skipped++
	b, err := lr.r.ReadByte()
	if err != nil {
		return nil, false, err
	}
	switch {
	case b == telnetIAC:
		return nil, true, nil
	case b < telnetLow: // the mark was urgent and is gone: this octet is text
		return nil, false, lr.r.UnreadByte()
	case b == telnetSB:
		return nil, false, lr.skipSubnegotiation()
	case b >= telnetWILL && b <= telnetDONT:
		opt, err := lr.r.ReadByte()
		if err != nil {
			return nil, false, err
		}
		switch b {
		case telnetWILL:
			return []byte{telnetIAC, telnetDONT, opt}, false, nil
		case telnetDO:
			return []byte{telnetIAC, telnetWILL + 1, opt}, false, nil // WONT
		}
	}
	return nil, false, nil
}

// skipSubnegotiation reads on to IAC SE.
func (lr *lineReader) skipSubnegotiation() error {
	iac := false
	for lr.skipped <= maxSkip {
		b, err := lr.r.ReadByte()
		if err != nil {
			return err
		}
		lr.skipped++
		if iac && b == telnetSE {
			return nil
		}
		iac = !iac && b == telnetIAC
	}
	return errSkipped
}

// parseLine splits a command line into its verb, upper-cased, and its argument:
// everything after the first space, for a pathname may begin with one. ok is false
// when the line begins with no verb of 1 to 8 letters.
func parseLine(line string) (verb, arg string, ok bool) {
	verb, arg, _ = strings.Cut(line, " ")
	if len(verb) < 1 || len(verb) > 8 {
		return "", "", false
	}
	for i := range len(verb) {
		if c := verb[i] | 0x20; c < 'a' || c > 'z' {
			return "", "", false
		}
	}
	return strings.ToUpper(verb), arg, true
}

// plain reports whether s holds none of the octets that would end a line or a C
// string somewhere on its way.
func plain(s string) bool { return !strings.ContainsAny(s, "\x00\r\n") }
