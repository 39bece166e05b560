using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Godwit.Migration.Bench;

/// <summary>What the bytes go over.</summary>
internal enum Transport
{
    Unix,
    Tcp,
    Tls,
}

/// <summary>Addresses and certificates of a run.</summary>
internal static class Link
{
    /// <summary>An address in <paramref name="directory"/>, or a port of this host.</summary>
    public static string NewUri(Transport transport, string directory) =>
        transport == Transport.Unix ? $"unix:{Path.Combine(directory, $"{Environment.TickCount64}.sock")}" : $"tcp:127.0.0.1:{FreePort()}";

    /// <summary>A socket for a uri of <see cref="NewUri"/>, and where it is.</summary>
    public static (Socket Socket, EndPoint End) Open(string uri) => uri.StartsWith("unix:", StringComparison.Ordinal)
        ? (new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified), new UnixDomainSocketEndPoint(uri["unix:".Length..]))
        : (new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true }, IPEndPoint.Parse(uri["tcp:".Length..]));

    /// <summary>Makes an authority and a certificate of this host, for both sides.</summary>
    public static void WriteCertificates(string directory)
    {
        DateTimeOffset now = TimeProvider.System.GetUtcNow();
        using var authorityKey = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var authorityRequest = new CertificateRequest("CN=bench", authorityKey, HashAlgorithmName.SHA256);
        authorityRequest.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
        using X509Certificate2 authority = authorityRequest.CreateSelfSigned(now.AddDays(-1), now.AddDays(1));
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=127.0.0.1", key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        names.AddIpAddress(IPAddress.Loopback);
        request.CertificateExtensions.Add(names.Build());
        using X509Certificate2 certificate = request.Create(authority, now.AddHours(-1), now.AddHours(12), [1, 2, 3, 4]);
        File.WriteAllText(Path.Combine(directory, TlsCredentials.AuthorityFile), authority.ExportCertificatePem());
        File.WriteAllText(Path.Combine(directory, TlsCredentials.CertificateFile), certificate.ExportCertificatePem());
        File.WriteAllText(Path.Combine(directory, TlsCredentials.KeyFile), key.ExportPkcs8PrivateKeyPem());
    }

    private static int FreePort()
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.LocalEndPoint!).Port;
    }
}
