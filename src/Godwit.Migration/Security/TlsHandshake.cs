using System.Net;
using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;

namespace Godwit.Migration;

/// <summary>Puts TLS 1.3 on a fresh channel, before anything of the migration has gone over it.</summary>
internal static class TlsHandshake
{
    /// <summary>Longest handshake. Arbitrary: a few round trips.</summary>
    internal static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);

    // First byte of a TLS record with a handshake message (RFC 8446, 5.1), and of a plain migration stream.
    private const byte HandshakeRecord = 0x16;
    internal const byte PlainStream = unchecked((byte)(StreamFormat.Magic & 0xFF));

    /// <summary>The source's half: the client.</summary>
    /// <exception cref="IOException">The destination speaks plain text, its certificate is not right, or the link is gone.</exception>
    internal static void AsSource(MigrationChannel channel, TlsCredentials credentials, MigrationUri uri, TimeProvider clock)
    {
        IReadOnlyList<string> peers = credentials.Peers.Count > 0 ? credentials.Peers : uri is TcpMigrationUri tcp ? [tcp.Host] : [];
        var check = new PeerCheck("destination", credentials, peers);
        var options = new SslClientAuthenticationOptions
        {
            // The name is only told to the destination; which ones are right is PeerCheck's to say.
            TargetHost = peers.Count > 0 && !IPAddress.TryParse(peers[0], out _) ? peers[0] : "",
            EnabledSslProtocols = SslProtocols.Tls13,
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
            CertificateChainPolicy = check.Policy(),
            RemoteCertificateValidationCallback = check.Validate,
            ClientCertificateContext = Context(credentials),
        };
        Run(channel, "destination", check, clock, stream => stream.AuthenticateAsClient(options));
    }

    /// <summary>The destination's half: the server.</summary>
    /// <exception cref="IOException">The source speaks plain text, its certificate is missing or not right, or the link is gone.</exception>
    internal static void AsDestination(MigrationChannel channel, TlsCredentials credentials, TimeProvider clock)
    {
        var check = new PeerCheck("source", credentials, credentials.Peers);
        var options = new SslServerAuthenticationOptions
        {
            ServerCertificateContext = Context(credentials),
            ClientCertificateRequired = true,
            EnabledSslProtocols = SslProtocols.Tls13,
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
            CertificateChainPolicy = check.Policy(),
            RemoteCertificateValidationCallback = check.Validate,
            // A resumed session would skip the certificates.
            AllowTlsResume = false,
        };
        Run(channel, "source", check, clock, stream => stream.AuthenticateAsServer(options));
    }

    /// <summary>Whether these are the first bytes of TLS, for a side that does not speak it.</summary>
    internal static bool LooksLikeTls(byte first) => first == HandshakeRecord;

    /// <summary>Waits for what the other side says first; null when it hangs up.</summary>
    /// <exception cref="IOException">It says nothing within the deadline, or the link is gone.</exception>
    internal static byte? WaitForFirstByte(MigrationChannel channel, TimeProvider clock)
    {
        using ITimer deadline = channel.StartDeadline(clock, "The TLS handshake was not done");
        return channel.Peek();
    }

    private static SslStreamCertificateContext Context(TlsCredentials credentials) =>
        SslStreamCertificateContext.Create(credentials.Own, credentials.Chain, offline: true);

    private static void Run(MigrationChannel channel, string peer, PeerCheck check, TimeProvider clock, Action<SslStream> authenticate)
    {
        using ITimer deadline = channel.StartDeadline(clock, "The TLS handshake was not done");
        try
        {
            channel.Secure(authenticate);
        }
        catch (Exception e) when (e is IOException or AuthenticationException or InvalidOperationException)
        {
            if (channel.AbortReason is { } reason)
                throw new IOException(reason, e);
            if (check.Refusal is { } refusal)
                throw new IOException($"TLS: {refusal}", e);
            if (channel.FirstByte == PlainStream)
                throw new IOException($"The {peer} speaks plain text; this side takes TLS only", e);
            throw new IOException($"TLS: the handshake with the {peer} failed: {(e.InnerException ?? e).Message}{channel.EndNote}", e);
        }
    }

    /// <summary>Judges the other side's certificate and remembers why it was refused.</summary>
    private sealed class PeerCheck(string peer, TlsCredentials credentials, IReadOnlyList<string> names)
    {
        internal string? Refusal { get; private set; }

        internal X509ChainPolicy Policy()
        {
            var policy = new X509ChainPolicy
            {
                TrustMode = X509ChainTrustMode.CustomRootTrust,
                RevocationMode = X509RevocationMode.NoCheck,
                DisableCertificateDownloads = true,
            };
            policy.CustomTrustStore.AddRange(credentials.Authorities);
            return policy;
        }

        internal bool Validate(object sender, X509Certificate? certificate, X509Chain? chain, SslPolicyErrors errors)
        {
            if (certificate is not X509Certificate2 shown)
            {
                Refusal = $"the {peer} shows no certificate";
                return false;
            }

            // The name is compared below, with every name that would do.
            if ((errors & ~SslPolicyErrors.RemoteCertificateNameMismatch) != 0)
            {
                string why = chain is null ? "" : string.Join(", ", chain.ChainStatus.Select(status => status.StatusInformation.Trim()));
                Refusal = $"the certificate of the {peer} ({shown.Subject}) is not good: {(why.Length > 0 ? why : errors.ToString())}";
                return false;
            }

            if (names.Count > 0 && !names.Any(name => shown.MatchesHostname(name, allowWildcards: false)))
            {
                Refusal = $"the certificate of the {peer} ({shown.Subject}) has none of the names that are required: {string.Join(", ", names)}";
                return false;
            }

            return true;
        }
    }
}
