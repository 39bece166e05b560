using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Godwit.Migration;

/// <summary>
/// What secures a machine's migrations: TLS 1.3 (RFC 8446) in which both sides show a certificate of the same authority, and the names that
/// the other side's must have. Once set, no migration of this machine goes or comes in plain text. Immutable.
/// </summary>
public sealed class TlsCredentials
{
    /// <summary>Name of the authority's certificate in a directory, QEMU's and libvirt's.</summary>
    public const string AuthorityFile = "ca-cert.pem";

    /// <summary>Name of this side's certificate (and, after it, those between it and the authority).</summary>
    public const string CertificateFile = "cert.pem";

    /// <summary>Name of the certificate's private key.</summary>
    public const string KeyFile = "key.pem";

    private TlsCredentials(string directory, X509Certificate2 own, X509Certificate2Collection chain, X509Certificate2Collection authorities, IReadOnlyList<string> peers)
    {
        Directory = directory;
        Own = own;
        Chain = chain;
        Authorities = authorities;
        Peers = peers;
    }

    /// <summary>Where they were read from.</summary>
    public string Directory { get; }

    /// <summary>
    /// Names (DNS names or IP addresses) of which the other side's certificate must have one. Empty: a destination takes every source whose
    /// certificate is the authority's; a source wants the host of a <c>tcp:</c> address, and for other addresses takes every destination.
    /// </summary>
    public IReadOnlyList<string> Peers { get; }

    internal X509Certificate2 Own { get; }

    internal X509Certificate2Collection Chain { get; }

    internal X509Certificate2Collection Authorities { get; }

    /// <summary>Reads <c>ca-cert.pem</c>, <c>cert.pem</c> and <c>key.pem</c>.</summary>
    /// <exception cref="IOException">One is missing, or is not what it should be; the text names it.</exception>
    public static TlsCredentials Load(string directory, IReadOnlyList<string> peers)
    {
        ArgumentException.ThrowIfNullOrEmpty(directory);
        string authorityPath = Path.Combine(directory, AuthorityFile);
        string certificatePath = Path.Combine(directory, CertificateFile);
        var authorities = new X509Certificate2Collection();
        var chain = new X509Certificate2Collection();
        Read(authorityPath, () => authorities.ImportFromPemFile(authorityPath));
        if (authorities.Count == 0)
            throw new IOException($"TLS: {authorityPath} holds no certificate");
        Read(certificatePath, () => chain.ImportFromPemFile(certificatePath));
        X509Certificate2? own = null;
        Read($"{certificatePath} with {Path.Combine(directory, KeyFile)}",
            () => own = X509Certificate2.CreateFromPemFile(certificatePath, Path.Combine(directory, KeyFile)));
        return new TlsCredentials(directory, own!, chain, authorities, [.. peers]);
    }

    private static void Read(string what, Action read)
    {
        try
        {
            read();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or CryptographicException or ArgumentException)
        {
            throw new IOException($"TLS: {what} cannot be used: {e.Message}", e);
        }
    }
}
