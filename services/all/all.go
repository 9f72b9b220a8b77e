// Package all is the catalogue: every service the host can run, one line each.
package all

import (
	"porthole/services"
	"porthole/services/classic"
	"porthole/services/dhcp"
	"porthole/services/dns"
	"porthole/services/ftp"
	"porthole/services/http"
)

// Services returns the catalogue in the order in which services start and are listed.
func Services() []services.Service { return catalogue }

var catalogue = []services.Service{
	http.Service,
	dns.Service,
	ftp.Service,
	dhcp.Service,
	classic.Echo,
	classic.Discard,
}

// Lookup finds a service by name.
func Lookup(name string) (services.Service, bool) {
	for _, s := range catalogue {
		if s.Name == name {
			return s, true
		}
	}
	return services.Service{}, false
}

// Names lists the catalogue's names in order.
func Names() []string {
	var names []string
	for _, s := range catalogue {
		names = append(names, s.Name)
	}
	return names
}
