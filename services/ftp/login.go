package ftp

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"strings"
)

// cmdUser begins a login. It never says whether the name exists. A user who is
// logged in may change to another (RFC 959, USER): parameters stay, files do not.
func (s *session) cmdUser(name string) {
	s.restartPatience()
	s.user, s.acct, s.waiting = name, nil, nil
	s.cwd, s.rest = "/", 0
	s.dropData()
	if isAnonymous(name) {
		s.user = "anonymous"
		if s.srv.accounts["anonymous"] != nil {
			s.reply(331, "Any password will do; your address is customary.")
			return
		}
	}
	s.reply(331, "Password for %s, please.", name)
}

// cmdPass compares digests of equal length in constant time, for an unknown name
// against one that nothing matches.
func (s *session) cmdPass(password string) {
	if s.user == "" || s.acct != nil || s.waiting != nil {
		s.reply(503, "Give USER first.")
		return
	}
	a := s.srv.accounts[s.user]
	var want [sha256.Size]byte
	if a != nil {
		want = a.password
	}
	got := sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(got[:], want[:]) == 1
	switch {
	case a == nil || !a.anonymous && !same:
		s.refuse()
	case a.acct != "":
		s.waiting = a
		s.reply(332, "Account, please: ACCT.")
	default:
		s.enter(a)
	}
}

func (s *session) cmdAcct(acct string) {
	switch {
	case s.acct != nil:
		s.reply(202, "No account is needed.")
	case s.waiting == nil:
		s.reply(503, "Give USER and PASS first.")
	default:
		got, want := sha256.Sum256([]byte(acct)), sha256.Sum256([]byte(s.waiting.acct))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			s.refuse()
			return
		}
		s.enter(s.waiting)
	}
}

func (s *session) enter(a *account) {
	s.acct, s.waiting, s.tries = a, nil, 0
	rights := "read"
	if a.write {
		rights = "read and write"
	}
	s.reply(230, "Welcome, %s; you may %s.", a.name, rights)
}

// refuse counts a failed login; the last one that is allowed ends the session.
func (s *session) refuse() {
	s.user, s.waiting = "", nil
	if s.tries++; s.tries >= s.cfg.LoginTries {
		s.reply(421, "Login incorrect %d times; closing.", s.tries)
		s.quit = true
		return
	}
	s.reply(530, "Login incorrect.")
}

func (s *session) cmdQuit(string) {
	s.reply(221, "Goodbye.")
	s.quit = true
}

// cmdRein starts over; what the login tries were is not forgotten.
func (s *session) cmdRein(string) {
	s.restartPatience()
	s.reset()
	s.reply(220, "%s", s.greeting())
}

// restartPatience gives somebody who was logged in the time for another login, and
// nobody else: a stranger must not hold a connection by asking again.
func (s *session) restartPatience() {
	if s.acct != nil {
		s.greeted = s.env.Now()
	}
}

// cmdHost accepts the names and addresses of this host (RFC 7151); it has one set
// of files for all of them.
func (s *session) cmdHost(name string) {
	if s.user != "" {
		s.reply(503, "HOST comes before USER.")
		return
	}
	if s.isOurs(name) {
		s.reply(220, "%s", s.greeting())
		return
	}
	s.reply(504, "%s is not a name of this host.", name)
}

func (s *session) isOurs(name string) bool {
	h := s.env.Host
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return a.Unmap() == s.local.Addr().WithZone("")
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, n := range []string{h.Name, h.Zone, h.Name + "." + h.Zone, "ftp." + h.Zone, "localhost"} {
		if name == strings.ToLower(n) {
			return true
		}
	}
	return false
}

// cmdLang offers English alone (RFC 2640, 4.1).
func (s *session) cmdLang(tag string) {
	base, _, _ := strings.Cut(strings.ToLower(tag), "-")
	if tag != "" && base != "en" {
		s.reply(504, "Only LANG EN is there.")
		return
	}
	s.reply(200, "Replies are in English.")
}

func (s *session) cmdClnt(string) { s.reply(200, "Noted.") }
