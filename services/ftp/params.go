package ftp

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

func (s *session) cmdType(arg string) {
	f := strings.Fields(strings.ToUpper(arg))
	kind, form := f[0], strings.Join(f[1:], " ")
	switch {
	case kind == "A" && (form == "" || form == "N"):
		s.ascii = true
		s.reply(200, "Type is ASCII, non-print.")
	case kind == "I" && form == "", kind == "L" && form == "8":
		s.ascii = false
		s.reply(200, "Type is image (8 bits).")
	case (kind == "A" || kind == "E") && (form == "" || form == "N" || form == "T" || form == "C"):
		s.reply(504, "Only A N, I and L 8 are there.")
	case kind == "L" && isNumber(form):
		s.reply(504, "Bytes here have 8 bits.")
	default:
		s.reply(501, "Syntax: TYPE %s", commands["TYPE"].syntax)
	}
}

func isNumber(t string) bool {
	_, err := strconv.ParseUint(t, 10, 63)
	return err == nil
}

func (s *session) cmdStru(arg string) {
	switch strings.ToUpper(arg) {
	case "F":
		s.reply(200, "Structure is file.")
	case "R", "P": // RFC 1123, 4.1.2.14: records only where the file system has them
		s.reply(504, "Only file structure is there.")
	default:
		s.reply(501, "Syntax: STRU F")
	}
}

func (s *session) cmdMode(arg string) {
	switch strings.ToUpper(arg) {
	case "S":
		s.reply(200, "Mode is stream.")
	case "B", "C":
		s.reply(504, "Only stream mode is there.")
	default:
		s.reply(501, "Syntax: MODE S")
	}
}

// cmdAllo needs to allocate nothing, but tells early what would be refused late.
func (s *session) cmdAllo(arg string) {
	f := strings.Fields(strings.ToUpper(arg))
	if !(len(f) == 1 || len(f) == 3 && f[1] == "R" && isNumber(f[2])) || !isNumber(f[0]) {
		s.reply(501, "Syntax: ALLO %s", commands["ALLO"].syntax)
		return
	}
	if n, _ := strconv.ParseInt(f[0], 10, 64); n > int64(s.cfg.MaxFileSize) {
		s.reply(504, "Files may have %v at most.", s.cfg.MaxFileSize)
		return
	}
	s.reply(202, "No allocation is necessary.")
}

// cmdRest sets where the next RETR or STOR begins (RFC 3659 section 5). In TYPE A
// an offset would count octets that are not in the file, so only 0 is taken.
func (s *session) cmdRest(arg string) {
	n, err := strconv.ParseUint(arg, 10, 64)
	switch {
	case err != nil || n > math.MaxInt64:
		s.reply(501, "Syntax: REST <SP> <offset>, a whole number.")
	case s.ascii && n > 0:
		s.reply(504, "REST needs TYPE I.")
	default:
		s.rest = int64(n)
		s.reply(350, "The next RETR or STOR begins at %d.", n)
	}
}

func (s *session) cmdSyst(string) { s.reply(215, "UNIX Type: L8") }
func (s *session) cmdNoop(string) { s.reply(200, "Here.") }

// cmdSite has nothing of its own. An unknown one must not look done: no 202.
func (s *session) cmdSite(arg string) {
	f := strings.Fields(strings.ToUpper(arg))
	if f[0] == "HELP" {
		s.reply(214, "SITE has HELP alone.")
		return
	}
	s.reply(500, "SITE %s is not there; SITE has HELP alone.", f[0])
}

func (s *session) cmdHelp(arg string) {
	if verb := strings.ToUpper(arg); verb != "" {
		c, ok := commands[verb]
		if !ok || c.syntax == "" && c.arg == argOptional || verb == "SMNT" {
			s.reply(502, "%s is not implemented here.", verb)
			return
		}
		s.reply(214, "Syntax: %s", strings.TrimSpace(verb+" "+c.syntax))
		return
	}
	var rows []string
	vs := verbs()
	for len(vs) > 0 {
		n := min(10, len(vs))
		var row strings.Builder
		for _, v := range vs[:n] {
			fmt.Fprintf(&row, "%-5s", v)
		}
		rows = append(rows, strings.TrimSpace(row.String()))
		vs = vs[n:]
	}
	s.replyLines(214, "These commands are there:", rows, "HELP <command> shows its syntax.")
}

// cmdFeat lists what goes beyond RFC 959, by the names of RFC 5797's registry.
func (s *session) cmdFeat(string) {
	s.replyLines(211, "Features:", []string{
		"CLNT", "EPRT", "EPSV", "HOST", "LANG EN*", "MDTM", "MFMT",
		"MLST " + s.facts.features(), "REST STREAM", "SIZE", "TVFS", "UTF8",
	}, "End")
}

func (s *session) cmdOpts(arg string) {
	name, opt, _ := strings.Cut(arg, " ")
	opt = strings.TrimSpace(opt)
	switch strings.ToUpper(name) {
	case "UTF8", "UTF-8":
		if opt == "" || strings.EqualFold(opt, "ON") {
			s.reply(200, "UTF8 is on, always.")
			return
		}
		s.reply(501, "UTF8 is on, always.")
	case "MLST":
		s.facts = parseFacts(opt)
		s.reply(200, "%s", strings.TrimSpace("MLST OPTS "+s.facts.String()))
	default:
		s.reply(501, "%s has no options here.", name)
	}
}

// cmdStat shows the session or, with a pathname, a listing over the control
// connection (RFC 959, 4.1.3).
func (s *session) cmdStat(arg string) {
	if strings.TrimSpace(arg) != "" {
		s.statPath(arg)
		return
	}
	kind := "ASCII, non-print"
	if !s.ascii {
		kind = "image"
	}
	lines := []string{
		fmt.Sprintf("porthole %s on %s", s.env.Host.Version, s.env.Host.Name),
		fmt.Sprintf("Connected to %v", s.client),
		fmt.Sprintf("Logged in as %s", s.acct.name),
		fmt.Sprintf("TYPE: %s; STRU: file; MODE: stream", kind),
	}
	switch {
	case s.xfer != nil:
		lines = append(lines, s.xfer.status(s.env.Now()))
	case s.passive != nil:
		lines = append(lines, "Data connection: passive, waiting")
	case s.active.IsValid():
		lines = append(lines, fmt.Sprintf("Data connection: will go to %v", s.active))
	default:
		lines = append(lines, "No data connection")
	}
	s.replyLines(211, "Status:", lines, "End")
}
