package portmap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// The parts of UPnP's Internet Gateway Device (IGD:1 and IGD:2) that map ports, best first. Of IGD:2 the services of version 1
// are offered, too, so that one of these is always there.
var connections = []string{
	"urn:schemas-upnp-org:service:WANIPConnection:2",
	"urn:schemas-upnp-org:service:WANIPConnection:1",
	"urn:schemas-upnp-org:service:WANPPPConnection:1",
}

const (
	ssdpPort  = 1900
	ssdpGroup = "239.255.255.250"
	maxReply  = 64 << 10 // bytes of a description or an answer
)

// errOnlyPermanent is OnlyPermanentLeasesSupported: boxd makes none.
const errOnlyPermanent = 725

// gatewayDevice is a router that maps ports by UPnP.
type gatewayDevice struct {
	control string // URL
	service string // URN
	local   string // our address as the router sees it
	client  *http.Client
}

// soapError is what a router says when it refuses.
type soapError struct {
	Code int    `xml:"Body>Fault>detail>UPnPError>errorCode"`
	Text string `xml:"Body>Fault>detail>UPnPError>errorDescription"`
}

func (e *soapError) Error() string { return fmt.Sprintf("refused with %d %.60q", e.Code, e.Text) }

// findDevice asks the gateway, and only it, where its description is: any other device of the home could answer as well,
// and have us send requests to wherever it likes.
func findDevice(ctx context.Context, gw netip.Addr, port int) (*gatewayDevice, error) {
	location, err := search(ctx, gw, port)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "http" || u.Hostname() != gw.String() {
		return nil, fmt.Errorf("the description is at %.80q, not at the router", location)
	}
	d := &gatewayDevice{client: &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	body, _, err := d.do(ctx, http.MethodGet, location, "", nil)
	if err != nil {
		return nil, err
	}
	return d, d.describe(u, body)
}

// search sends an M-SEARCH by multicast, as the standard wants it, and to the router itself, and returns the address of the
// description that the router names.
func search(ctx context.Context, gw netip.Addr, port int) (string, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return "", err
	}
	defer func() { _ = pc.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = pc.Close() })
	defer stop()
	if err := pc.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	hosts := []string{ssdpGroup, gw.String()}
	if gw.IsLoopback() {
		hosts = hosts[1:]
	}
	for _, host := range hosts {
		addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)))
		for _, v := range []string{"1", "2"} {
			msg := "M-SEARCH * HTTP/1.1\r\nHOST: " + ssdpGroup + ":1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n" +
				"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:" + v + "\r\n\r\n"
			if _, err := pc.WriteTo([]byte(msg), addr); err != nil && host != ssdpGroup {
				return "", err // there may be no way for multicast
			}
		}
	}
	b := make([]byte, 4<<10)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return "", errors.New("no router answers")
		}
		if ap, err := netip.ParseAddrPort(from.String()); err != nil || ap.Addr().Unmap() != gw {
			continue
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b[:n])), nil)
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if at := resp.Header.Get("Location"); at != "" && strings.Contains(resp.Header.Get("St"), "InternetGatewayDevice") {
			return at, nil
		}
	}
}

// describe finds the service in a description: wherever in the tree of devices it is.
func (d *gatewayDevice) describe(at *url.URL, body []byte) error {
	found := map[string]string{}
	dec := xml.NewDecoder(bytes.NewReader(body))
	var kind, control, text string
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("description: %w", err)
		}
		switch t := tok.(type) {
		case xml.StartElement:
			text = ""
			if t.Name.Local == "service" {
				kind, control = "", ""
			}
		case xml.CharData:
			text += string(t)
		case xml.EndElement:
			switch t.Name.Local {
			case "serviceType":
				kind = strings.TrimSpace(text)
			case "controlURL":
				control = strings.TrimSpace(text)
			case "service":
				found[kind] = control
			}
			text = ""
		}
	}
	for _, urn := range connections {
		ref, err := url.Parse(found[urn])
		if found[urn] == "" || err != nil {
			continue
		}
		if u := at.ResolveReference(ref); u.Scheme == "http" && u.Hostname() == at.Hostname() {
			d.control, d.service = u.String(), urn
			return nil
		}
	}
	return errors.New("the router maps no ports")
}

// do makes one bounded request.
func (d *gatewayDevice) do(ctx context.Context, method, to, action string, body []byte) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	if action != "" {
		req.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
		req.Header["SOAPAction"] = []string{`"` + d.service + "#" + action + `"`} // some routers mind the case
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err == nil && action == "" && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("description: %s", resp.Status)
	}
	return b, resp.StatusCode, err
}

// call makes one SOAP request.
func (d *gatewayDevice) call(ctx context.Context, action string, args ...string) ([]byte, error) {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:` + action + ` xmlns:u="` + d.service + `">`)
	for i := 0; i+1 < len(args); i += 2 {
		b.WriteString("<" + args[i] + ">" + args[i+1] + "</" + args[i] + ">")
	}
	b.WriteString("</u:" + action + "></s:Body></s:Envelope>")
	body, status, err := d.do(ctx, http.MethodPost, d.control, action, []byte(b.String()))
	if err != nil || status == http.StatusOK {
		return body, err
	}
	fault := &soapError{}
	if err := xml.Unmarshal(body, fault); err != nil || fault.Code == 0 {
		return nil, fmt.Errorf("%s: status %d", action, status)
	}
	return nil, fault
}

func (d *gatewayDevice) add(ctx context.Context, external, internal int) error {
	_, err := d.call(ctx, "AddPortMapping", "NewRemoteHost", "", "NewExternalPort", fmt.Sprint(external),
		"NewProtocol", "TCP", "NewInternalPort", fmt.Sprint(internal), "NewInternalClient", d.local, "NewEnabled", "1",
		"NewPortMappingDescription", "boxd", "NewLeaseDuration", fmt.Sprint(int(lease.Seconds())))
	return err
}

func (d *gatewayDevice) remove(ctx context.Context, external int) error {
	_, err := d.call(ctx, "DeletePortMapping", "NewRemoteHost", "", "NewExternalPort", fmt.Sprint(external), "NewProtocol", "TCP")
	return err
}

// address is the router's own address outside; zero when it does not say.
func (d *gatewayDevice) address(ctx context.Context) netip.Addr {
	body, err := d.call(ctx, "GetExternalIPAddress")
	if err != nil {
		return netip.Addr{}
	}
	var res struct {
		IP string `xml:"Body>GetExternalIPAddressResponse>NewExternalIPAddress"`
	}
	if xml.Unmarshal(body, &res) != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(strings.TrimSpace(res.IP)) // zero if it is none
	return a
}
