package ftp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each row is one session: commands, each followed by how its reply begins.
func TestTranscripts(t *testing.T) {
	r := start(t, func(c *Config) {
		c.Users = append(c.Users,
			User{Name: "acc", Password: "p", Account: "a1"},
			User{Name: "reader", Password: "p"})
	})
	long := strings.Repeat("x", maxLine+1)
	for _, tt := range []struct {
		name   string
		script []string
	}{
		{"login", []string{"USER anonymous", "331 ", "PASS", "230 ", "PASS x", "503 ", "QUIT", "221 "}},
		{"login by ftp", []string{"user FTP", "331 ", "pass x@y", "230 "}},
		{"login named", []string{"USER ann", "331 ", "PASS secret", "230 "}},
		{"login wrong, then right", []string{"USER ann", "331 ", "PASS Secret", "530 ", "PASS secret", "503 ", "USER ann", "331 ", "PASS secret", "230 "}},
		{"unknown users look like known ones", []string{"USER nobody", "331 ", "PASS", "530 "}},
		{"three tries", []string{"USER ann", "331 ", "PASS 1", "530 ", "USER ann", "331 ", "PASS 2", "530 ", "USER ann", "331 ", "PASS 3", "421 "}},
		{"account", []string{"ACCT x", "503 ", "USER acc", "331 ", "ACCT a1", "503 ", "PASS p", "332 ", "PWD", "530 ", "PASS p", "503 ", "ACCT a1", "230 ", "ACCT a1", "202 ", "PWD", "257 "}},
		{"account wrong", []string{"USER acc", "331 ", "PASS p", "332 ", "ACCT a2", "530 ", "ACCT a1", "503 "}},
		{"another user", []string{"USER ann", "331 ", "PASS secret", "230 ", "CWD pub", "250 ", "USER reader", "331 ", "PWD", "530 ", "PASS p", "230 ", "PWD", `257 "/"`, "MKD x", "550 "}},
		{"REIN", []string{"USER ann", "331 ", "PASS secret", "230 ", "REIN", "220 ", "PWD", "530 ", "PASS secret", "503 ", "USER ann", "331 ", "PASS secret", "230 "}},
		{"missing arguments", []string{"USER", "501 ", "ACCT", "501 ", "HOST", "501 ", "OPTS", "501 ", "CLNT", "501 "}},
		{"arguments too many", []string{"QUIT now", "501 ", "NOOP x", "501 ", "REIN x", "501 ", "SYST x", "501 ", "FEAT x", "501 ", "ABOR x", "501 "}},
		{"before the login", []string{"NOOP", "200 ", "SYST", "215 UNIX Type: L8", "HELP", "214-", "FEAT", "211-", "ABOR", "226 ", "OPTS UTF8 ON", "200 ", "LANG", "200 ", "CLNT me", "200 ", "HOST porthole.test", "220 "}},
		{"bad lines", []string{"", "500 ", " NOOP", "500 ", "123", "500 ", "FROBNICATE", "500 ", "FROB x", "500 ", long, "500 ", "NOOP\x00", "500 ", "CLNT a\x00b", "501 ", "CLNT a\rb", "501 ", "NOOP", "200 "}},
		{"no security extensions", []string{"AUTH TLS", "502 ", "AUTH", "502 ", "PBSZ 0", "502 ", "PROT P", "502 ", "CCC", "502 ", "ADAT x", "502 ", "MIC x", "502 ", "CONF x", "502 ", "ENC x", "502 "}},
		{"HOST", []string{"HOST ftp.porthole.test", "220 ", "HOST Porthole.Test.", "220 ", "HOST [" + r.addr.Addr().String() + "]", "220 ", "HOST elsewhere.test", "504 ", "HOST 127.9.9.9", "504 ", "USER ann", "331 ", "HOST porthole", "503 "}},
		{"LANG", []string{"LANG en-GB", "200 ", "LANG EN", "200 ", "LANG fr", "504 "}},
	} {
		t.Run(tt.name, func(t *testing.T) { r.play(t, r.open(), tt.script) })
	}
}

// Every command that needs a login gives 530 without one, whatever its argument.
func TestLoginNeeded(t *testing.T) {
	r := start(t, nil)
	c := r.open()
	n := 0
	for verb, cmd := range commands {
		if cmd.open {
			continue
		}
		n++
		if cmd.arg == argNone || cmd.arg == argOptional || cmd.arg == argPathOpt {
			c.do(verb, "530 ")
		}
		if cmd.arg != argNone {
			c.do(verb+" x", "530 ")
		}
	}
	require.Greater(t, n, 30)
}

// Every command that changes something gives 550 to a reader.
func TestWriteNeeded(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	for verb, cmd := range commands {
		if !cmd.write {
			continue
		}
		switch {
		case cmd.arg == argNone:
			c.do(verb, "550 ")
		case verb == "MFMT":
			c.do("MFMT 20200101000000 README.txt", "550 ")
		default:
			c.do(verb+" README.txt", "550 ")
		}
	}
	c.do("SIZE README.txt", "213 ")
}

func TestTranscriptsLoggedIn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script []string
	}{
		{"TYPE", []string{"TYPE", "501 ", "TYPE A", "200 ", "TYPE a n", "200 ", "TYPE I", "200 ", "TYPE L 8", "200 ", "TYPE L 36", "504 ", "TYPE L", "501 ", "TYPE A T", "504 ", "TYPE A C", "504 ", "TYPE E", "504 ", "TYPE X", "501 ", "TYPE A Q", "501 ", "TYPE I N", "501 "}},
		{"STRU", []string{"STRU F", "200 ", "STRU f", "200 ", "STRU R", "504 ", "STRU P", "504 ", "STRU X", "501 ", "STRU", "501 "}},
		{"MODE", []string{"MODE S", "200 ", "MODE B", "504 ", "MODE C", "504 ", "MODE X", "501 ", "MODE", "501 "}},
		{"PWD CWD CDUP", []string{"PWD", `257 "/" `, "CWD pub", "250 ", "PWD", `257 "/pub" `, "CWD /big", "250 ", "CDUP", "250 ", "CDUP", "250 ", "PWD", `257 "/" `, "CWD ../../..", "250 ", "PWD", `257 "/" `, "CWD nosuch", "550 ", "CWD README.txt", "550 ", "CWD", "501 ", "CDUP x", "501 ", "CWD pub/../pub/./names", "250 ", "PWD", `257 "/pub/names" `}},
		{"old names", []string{"XCWD pub", "250 ", "XPWD", `257 "/pub" `, "XCUP", "250 ", "XMKD x1", `257 "/x1" `, "XRMD x1", "250 "}},
		{"quotes doubled", []string{`MKD a"b`, `257 "/a""b" created`, `CWD a"b`, "250 ", "PWD", `257 "/a""b" `, "CDUP", "250 ", `RMD a"b`, "250 "}},
		{"MKD RMD", []string{"MKD d", `257 "/d" `, "MKD d", "550 ", "MKD d/e", "257 ", "RMD d", "550 /d: directory not empty", "DELE d", "550 ", "RMD d/e", "250 ", "RMD d", "250 ", "RMD d", "550 ", "MKD no/such", "550 ", "RMD /", "550 ", "RMD README.txt", "550 ", "MKD", "501 ", "RMD", "501 ", "MKD /", "550 "}},
		{"RNFR RNTO", []string{"RNTO x", "503 ", "RNFR nosuch", "550 ", "RNTO x", "503 ", "MKD d", "257 ", "RNFR d", "350 ", "NOOP", "200 ", "RNTO e", "503 ", "RNFR d", "350 ", "RNTO e", "250 ", "CWD d", "550 ", "RNFR e", "350 ", "RNTO no/such", "553 ", "RNFR /", "550 ", "RNFR e", "350 ", "RNTO /", "553 ", "RNFR", "501 ", "RNFR e", "350 ", "RNTO e/f", "553 ", "RMD e", "250 "}},
		{"DELE", []string{"DELE nosuch", "550 ", "DELE pub", "550 ", "DELE", "501 ", "DELE pub/empty", "250 ", "DELE pub/empty", "550 "}},
		{"SIZE", []string{"TYPE I", "200 ", "SIZE pub/1KiB.bin", "213 1024", "SIZE pub", "550 ", "SIZE nosuch", "550 ", "SIZE", "501 ", "SIZE pub/text/lines.txt", "213 73000", "TYPE A", "200 ", "SIZE pub/text/lines.txt", "213 74000", "SIZE big/64MiB.bin", "550 "}},
		{"MDTM MFMT", []string{"MDTM nosuch", "550 ", "MDTM", "501 ", "MFMT 20020717210715 README.txt", "213 Modify=20020717210715; /README.txt", "MDTM README.txt", "213 20020717210715", "MFMT 2002 README.txt", "501 ", "MFMT 20020717210715", "501 ", "MFMT 20021317210715 README.txt", "501 ", "MFMT 20020717210715 nosuch", "550 "}},
		{"REST", []string{"TYPE I", "200 ", "REST 0", "350 ", "REST 1000000000000", "350 ", "REST x", "501 ", "REST -1", "501 ", "REST", "501 ", "REST 99999999999999999999", "501 ", "TYPE A", "200 ", "REST 5", "504 ", "REST 0", "350 "}},
		{"ALLO", []string{"ALLO 5", "202 ", "ALLO 5 R 80", "202 ", "ALLO x", "501 ", "ALLO 5 R", "501 ", "ALLO", "501 ", "ALLO 999999999999999", "504 "}},
		{"SITE SMNT", []string{"SITE HELP", "214 ", "SITE CHMOD 777 x", "500 ", "SITE", "501 ", "SMNT x", "502 "}},
		{"OPTS", []string{"OPTS UTF8 ON", "200 ", "OPTS utf8", "200 ", "OPTS UTF8 OFF", "501 ", "OPTS NONE x", "501 ", "OPTS MLST size;Type;", "200 MLST OPTS type;size;", "OPTS MLST", "200 MLST OPTS", "OPTS MLST bogus;unix.MODE;", "200 MLST OPTS UNIX.mode;"}},
		{"HELP", []string{"HELP STOR", "214 Syntax: STOR <SP> <pathname>", "HELP quit", "214 Syntax: QUIT", "HELP AUTH", "502 ", "HELP NOSUCH", "502 "}},
		{"PORT", []string{"PORT 127,0,0,1,200,0", "200 ", "PORT 127,0,0,1,3,255", "504 ", "PORT 127,0,0,2,200,0", "504 ", "PORT 8,8,8,8,200,0", "504 ", "PORT 127,0,0,1,200", "501 ", "PORT 127,0,0,1,200,0,0", "501 ", "PORT 127,0,0,1,256,0", "501 ", "PORT a,0,0,1,200,0", "501 ", "PORT", "501 "}},
		{"EPRT", []string{"EPRT |1|127.0.0.1|50000|", "200 ", "EPRT !1!127.0.0.1!50000!", "200 ", "EPRT |1|127.0.0.1|1023|", "504 ", "EPRT |1|127.0.0.2|50000|", "504 ", "EPRT |2|::1|50000|", "522 Network protocol not supported, use (1)", "EPRT |3|x|50000|", "522 Network protocol not supported, use (1,2)", "EPRT |1|::1|50000|", "501 ", "EPRT |1|127.0.0.1|70000|", "501 ", "EPRT |1|127.0.0.1|50000", "501 ", "EPRT x", "501 ", "EPRT |a|127.0.0.1|50000|", "501 ", "EPRT", "501 "}},
		{"PASV EPSV", []string{"PASV", "227 Entering Passive Mode (127,77,", "EPSV", "229 Entering Extended Passive Mode (|||", "EPSV 1", "229 ", "EPSV 2", "522 Network protocol not supported, use (1)", "EPSV 9", "522 ", "EPSV x", "501 ", "PASV x", "501 ", "EPSV ALL", "200 ", "PASV", "501 ", "PORT 127,0,0,1,200,0", "501 ", "EPRT |1|127.0.0.1|50000|", "501 ", "EPSV", "229 "}},
		{"no data connection arranged", []string{"RETR README.txt", "425 ", "LIST", "425 ", "NLST", "425 ", "MLSD", "425 ", "STOR x", "425 ", "APPE x", "425 ", "STOU", "425 ", "SIZE x", "550 ", "PASV", "227 ", "ABOR", "226 ", "LIST", "425 "}},
		{"what cannot be moved", []string{"PASV", "227 ", "RETR nosuch", "550 ", "RETR pub", "550 ", "STOR pub", "553 ", "STOR no/such", "553 ", "APPE pub", "553 ", "LIST nosuch", "550 ", "NLST nosuch", "550 ", "RETR", "501 ", "STOR", "501 ", "APPE", "501 ", "STOU no/such", "553 "}},
		{"MLSx of what is not there", []string{"MLSD nosuch", "550 ", "MLSD README.txt", "501 ", "MLST nosuch", "550 ", "STAT nosuch", "450 "}},
		{"REST beyond the end", []string{"TYPE I", "200 ", "PASV", "227 ", "REST 1025", "350 ", "RETR pub/1KiB.bin", "554 ", "REST 1025", "350 ", "STOR pub/1KiB.bin", "554 ", "SIZE pub/1KiB.bin", "213 1024", "REST 5", "350 ", "TYPE A", "200 ", "RETR pub/1KiB.bin", "554 ", "REST 0", "350 ", "TYPE I", "200 ", "REST 9", "350 ", "STOR nosuch", "553 ", "SIZE nosuch", "550 "}},
		{"long names", []string{"MKD " + strings.Repeat("n", 256), "550 ", "CWD " + strings.Repeat("d/", 65), "550 ", "CWD " + strings.Repeat("d/../", 700), "250 ", "MKD " + strings.Repeat("n", 255), "257 "}},
		{"names with spaces", []string{"SIZE pub/names/with space.txt", "213 ", "MKD  lead", `257 "/ lead"`, "RMD  lead", "250 "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, nil)
			r.play(t, r.login("ann", "secret"), tt.script)
		})
	}
}

func (r *rig) play(t *testing.T, c *client, script []string) {
	t.Helper()
	c.t = t
	require.Zero(t, len(script)%2)
	for i := 0; i < len(script); i += 2 {
		got := c.do(script[i], script[i+1])
		if code := script[i+1][:3]; code == "221" || code == "421" {
			c.closed()
		}
		require.True(t, plain(strings.ReplaceAll(got, "\n", "")))
	}
}

// The replies of several lines, in full.
func TestMultiline(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	require.Equal(t, strings.Join([]string{
		"211-Features:", " CLNT", " EPRT", " EPSV", " HOST", " LANG EN*", " MDTM", " MFMT",
		" MLST type*;size*;modify*;perm*;unique*;UNIX.mode*;",
		" REST STREAM", " SIZE", " TVFS", " UTF8", "211 End",
	}, "\n"), c.do("FEAT", "211-"))
	c.do("OPTS MLST type;size;", "200 MLST OPTS type;size;")
	require.Contains(t, c.do("FEAT", "211-"), " MLST type*;size*;modify;perm;unique;UNIX.mode;\n")
	require.Equal(t, "250-Listing /pub/1KiB.bin\n type=file;size=1024; /pub/1KiB.bin\n250 End", c.do("MLST pub/1KiB.bin", "250"))
	require.Equal(t, "250-Listing /\n type=dir; /\n250 End", c.do("MLST", "250"))

	help := c.do("HELP", "214-")
	for verb, cmd := range commands {
		if cmd.run != nil && verb != "SMNT" && cmd.syntax != "" {
			require.Contains(t, help, verb)
		}
	}
	require.NotContains(t, help, "AUTH")

	stat := c.do("STAT", "211-")
	require.Contains(t, stat, "Logged in as anonymous")
	require.Contains(t, stat, "TYPE: ASCII")
	require.Contains(t, c.do("STAT README.txt", "213-"), "README.txt\n213 End")
	dir := c.do("STAT pub", "212-")
	require.Contains(t, dir, " 1KiB.bin\n")
	require.Contains(t, dir, "\n212 End")
}

// The log has a line per command, and never a secret.
func TestAccessLog(t *testing.T) {
	r := start(t, nil)
	c := r.login("ann", "secret")
	c.get("RETR README.txt")
	c.do("FROB x", "500")
	c.do("QUIT", "221")
	c.closed()
	log := r.log.String()
	require.NotContains(t, log, "secret")
	for _, want := range []string{`request="PASS ***" result=230`, `request="RETR /README.txt" result=226`, "bytes=", "user=ann", `request="FROB x" result=500`, "request=QUIT result=221"} {
		require.Contains(t, log, want)
	}
}
