package ftp

import (
	"slices"
	"strings"
)

// What a command's argument must be.
const (
	argNone     = iota
	argOptional // and trimmed
	argNeeded   // and trimmed
	argPath     // needed, kept as it is: a pathname may begin and end with spaces
	argPathOpt  // likewise, but may be missing
)

// command is one verb. Verbs that name the same thing share run.
type command struct {
	syntax string // after the verb, for HELP
	arg    int
	open   bool // allowed before the login
	write  bool // needs the right to write
	run    func(s *session, arg string)
}

// commands is filled by init: HELP and FEAT read it.
var commands map[string]command

func init() {
	commands = map[string]command{
		// access (RFC 959, 4.1.1)
		"USER": {"<SP> <username>", argNeeded, true, false, (*session).cmdUser},
		"PASS": {"[<SP> <password>]", argPathOpt, true, false, (*session).cmdPass},
		"ACCT": {"<SP> <account>", argPath, true, false, (*session).cmdAcct},
		"CWD":  {"<SP> <pathname>", argPath, false, false, (*session).cmdCwd},
		"CDUP": {"", argNone, false, false, (*session).cmdCdup},
		"SMNT": {"<SP> <pathname>", argOptional, false, false, notHere},
		"QUIT": {"", argNone, true, false, (*session).cmdQuit},
		"REIN": {"", argNone, true, false, (*session).cmdRein},
		"HOST": {"<SP> <hostname>", argNeeded, true, false, (*session).cmdHost},
		"LANG": {"[<SP> <tag>]", argOptional, true, false, (*session).cmdLang},
		"CLNT": {"<SP> <client>", argNeeded, true, false, (*session).cmdClnt},
		// parameters (4.1.2; RFC 2428)
		"PORT": {"<SP> <h1,h2,h3,h4,p1,p2>", argNeeded, false, false, (*session).cmdPort},
		"PASV": {"", argNone, false, false, (*session).cmdPasv},
		"EPRT": {"<SP> |<1 or 2>|<address>|<port>|", argNeeded, false, false, (*session).cmdEprt},
		"EPSV": {"[<SP> (1 | 2 | ALL)]", argOptional, false, false, (*session).cmdEpsv},
		"TYPE": {"<SP> (A [N] | I | L 8)", argNeeded, false, false, (*session).cmdType},
		"STRU": {"<SP> F", argNeeded, false, false, (*session).cmdStru},
		"MODE": {"<SP> S", argNeeded, false, false, (*session).cmdMode},
		// service (4.1.3)
		"RETR": {"<SP> <pathname>", argPath, false, false, (*session).cmdRetr},
		"STOR": {"<SP> <pathname>", argPath, false, true, (*session).cmdStor},
		"STOU": {"[<SP> <pathname>]", argPathOpt, false, true, (*session).cmdStou},
		"APPE": {"<SP> <pathname>", argPath, false, true, (*session).cmdAppe},
		"ALLO": {"<SP> <bytes> [R <SP> <bytes>]", argNeeded, false, false, (*session).cmdAllo},
		"REST": {"<SP> <offset>", argNeeded, false, false, (*session).cmdRest},
		"RNFR": {"<SP> <pathname>", argPath, false, true, (*session).cmdRnfr},
		"RNTO": {"<SP> <pathname>", argPath, false, true, (*session).cmdRnto},
		"ABOR": {"", argNone, true, false, (*session).cmdAbor},
		"DELE": {"<SP> <pathname>", argPath, false, true, (*session).cmdDele},
		"RMD":  {"<SP> <pathname>", argPath, false, true, (*session).cmdRmd},
		"MKD":  {"<SP> <pathname>", argPath, false, true, (*session).cmdMkd},
		"PWD":  {"", argNone, false, false, (*session).cmdPwd},
		"LIST": {"[<SP> <pathname>]", argPathOpt, false, false, (*session).cmdList},
		"NLST": {"[<SP> <pathname>]", argPathOpt, false, false, (*session).cmdNlst},
		"SITE": {"<SP> HELP", argNeeded, false, false, (*session).cmdSite},
		"SYST": {"", argNone, true, false, (*session).cmdSyst},
		"STAT": {"[<SP> <pathname>]", argPathOpt, false, false, (*session).cmdStat},
		"HELP": {"[<SP> <command>]", argOptional, true, false, (*session).cmdHelp},
		"NOOP": {"", argNone, true, false, (*session).cmdNoop},
		// RFC 2389, 3659 and the one that sets what MDTM asks
		"FEAT": {"", argNone, true, false, (*session).cmdFeat},
		"OPTS": {"<SP> (UTF8 ON | MLST [<facts>])", argNeeded, true, false, (*session).cmdOpts},
		"SIZE": {"<SP> <pathname>", argPath, false, false, (*session).cmdSize},
		"MDTM": {"<SP> <pathname>", argPath, false, false, (*session).cmdMdtm},
		"MFMT": {"<SP> <YYYYMMDDHHMMSS> <SP> <pathname>", argPath, false, true, (*session).cmdMfmt},
		"MLST": {"[<SP> <pathname>]", argPathOpt, false, false, (*session).cmdMlst},
		"MLSD": {"[<SP> <pathname>]", argPathOpt, false, false, (*session).cmdMlsd},
	}
	for _, verb := range []string{"AUTH", "ADAT", "PBSZ", "PROT", "CCC", "MIC", "CONF", "ENC"} { // RFC 2228
		commands[verb] = command{"", argOptional, true, false, notHere}
	}
	for old, now := range map[string]string{ // RFC 775; RFC 1123, 4.1.3.1
		"XMKD": "MKD", "XRMD": "RMD", "XPWD": "PWD", "XCWD": "CWD", "XCUP": "CDUP",
	} {
		commands[old] = commands[now]
	}
}

func notHere(s *session, _ string) { s.reply(502, "Not implemented here.") }

// dispatch checks a command in the order of the RFC's reply classes: known (500),
// argument (501), login (530), rights (550); then runs it.
func (s *session) dispatch(verb, arg string) {
	c, ok := commands[verb]
	if !ok {
		s.reply(500, "%s is no command here; HELP lists them.", verb)
		return
	}
	from := s.renaming
	s.renaming = ""
	switch c.arg {
	case argNone, argOptional, argNeeded:
		arg = strings.TrimSpace(arg)
	}
	switch {
	case c.arg == argNone && arg != "":
		s.reply(501, "%s takes no argument.", verb)
		return
	case (c.arg == argNeeded || c.arg == argPath) && arg == "":
		s.reply(501, "Syntax: %s %s", verb, c.syntax)
		return
	case !plain(arg):
		s.reply(501, "NUL, CR and LF have no place in an argument.")
		return
	case s.acct == nil && !c.open:
		s.reply(530, "Log in first: USER, then PASS.")
		return
	case c.write && !s.acct.write:
		s.reply(550, "%s: this user may only read.", verb)
		return
	}
	if verb == "RNTO" {
		s.renaming = from
	}
	c.run(s, arg)
}

// verbs lists the implemented commands in order.
func verbs() []string {
	var vs []string
	for v, c := range commands {
		if v == "SMNT" || c.syntax == "" && c.arg == argOptional {
			continue
		}
		vs = append(vs, v)
	}
	slices.Sort(vs)
	return vs
}
