using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Godwit.Migration.Tests;

/// <summary>TLS with certificates made here.</summary>
public sealed class TlsTests : IDisposable
{
    private readonly TempDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [Theory]
    [InlineData("unix")]
    [InlineData("tcp")]
    public void A_machine_migrates_over_TLS_1_3(string transport)
    {
        using var authority = new Authority("ours");
        using var pair = new Pair(new TestMachine(mebibytes: 16), new TestMachine(mebibytes: 16, running: false), transport: transport);
        pair.SourceMachine.Fill(8);
        Secure(pair, Credentials(authority, "source.example", []), Credentials(authority, "127.0.0.1", ["source.example"]));
        pair.Listen();
        using var tap = new Tap(pair.Address);
        pair.Source.Start(tap.Address);
        pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, pair.DestinationMachine));
        pair.WaitForDestination(MigrationState.Completed);
        // What passed was TLS, and nothing of the stream can be read in it.
        byte[] seen = tap.FirstBytes();
        Assert.Equal(0x16, seen[0]);
        Assert.Equal(-1, seen.AsSpan().IndexOf("GODWITMS"u8));
    }

    public static TheoryData<string, string> Refusals => new()
    {
        { "source of another authority", "the certificate of the source (CN=source.example) is not good" },
        { "destination of another authority", "the certificate of the destination (CN=destination.example) is not good" },
        { "source with another name", "has none of the names that are required: friend.example" },
        { "destination with another name", "has none of the names that are required: friend.example" },
        { "expired source", "the certificate of the source (CN=source.example) is not good" },
        { "plain source", "the source speaks plain text; this side takes TLS only" },
        { "plain destination", "The destination speaks plain text; this side takes TLS only" },
    };

    [Theory]
    [MemberData(nameof(Refusals))]
    public void Who_has_not_the_right_certificate_is_refused_and_the_source_runs_on(string who, string says)
    {
        using var ours = new Authority("ours");
        using var theirs = new Authority("theirs");
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        Authority sources = who == "source of another authority" ? theirs : ours;
        Authority destinations = who == "destination of another authority" ? theirs : ours;
        TlsCredentials source = Credentials(sources, "source.example", who == "destination with another name" ? ["friend.example"] : [],
            trusted: ours, expired: who == "expired source");
        TlsCredentials destination = Credentials(destinations, "destination.example", who == "source with another name" ? ["friend.example"] : [], trusted: ours);
        Secure(pair, who == "plain source" ? null : source, who == "plain destination" ? null : destination);
        pair.Listen();
        pair.Source.Start(pair.Address);
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Failed, MigrationState.Completed));
        Assert.True(pair.SourceMachine.Executing);
        Assert.Empty(pair.SourceMachine.Calls.Calls);
        pair.WaitForDestination(MigrationState.Setup);
        Assert.Contains(says, $"{pair.Source.Status.Error}\n{pair.Destination.Status.Error}", StringComparison.Ordinal);
        Assert.Empty(pair.DestinationMachine.Calls.Calls);

        // The destination listens on, and a right source gets in.
        if (who.Contains("source", StringComparison.Ordinal))
        {
            pair.Source.Parameters = pair.Source.Parameters with { Tls = Credentials(ours, "friend.example", []) };
            pair.Migrate();
            Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        }
    }

    [Fact]
    public void A_second_source_is_told_over_TLS_that_the_destination_is_busy()
    {
        using var authority = new Authority("ours");
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        Secure(pair, Credentials(authority, "source.example", []), Credentials(authority, "destination.example", []));
        using var second = new TestMachine();
        using var secondSource = new MigrationController(second, TimeProvider.System);
        secondSource.Parameters = pair.Source.Parameters;
        pair.MigrateWhileAsking(secondSource);
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Equal(MigrationState.Failed, secondSource.Status.State);
        Assert.Contains("busy", secondSource.Status.Error, StringComparison.Ordinal);
        Assert.Empty(second.Calls.Calls);
    }

    [Fact]
    public void A_source_that_says_nothing_is_given_up()
    {
        using var authority = new Authority("ours");
        var clock = new ManualClock();
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false), clock);
        Secure(pair, null, Credentials(authority, "destination.example", []));
        pair.Listen();
        using var silent = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        silent.Connect(new UnixDomainSocketEndPoint(pair.ListenUri["unix:".Length..]));
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                clock.Advance(TlsHandshake.Deadline);
                return pair.Destination.Status.Error is not null;
            },
            Pair.Patience));
        Assert.Contains("was not done within 10 s", pair.Destination.Status.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_cancel_ends_a_handshake()
    {
        using var authority = new Authority("ours");
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        Secure(pair, Credentials(authority, "source.example", []), null);
        string path = _directory.File("silent.sock");
        using var silent = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        silent.Bind(new UnixDomainSocketEndPoint(path));
        silent.Listen();
        pair.Source.Start($"unix:{path}");
        using Socket accepted = silent.Accept();
        Assert.True(accepted.Receive(new byte[1]) == 1); // the handshake has begun
        pair.Source.Cancel();
        Assert.Equal(MigrationState.Cancelled, pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed));
        Assert.True(pair.SourceMachine.Executing);
    }

    [Fact]
    public void A_file_that_cannot_be_used_is_named()
    {
        using var authority = new Authority("ours");
        string directory = Write(authority, authority, "a.example", expired: false);
        foreach (string file in new[] { TlsCredentials.AuthorityFile, TlsCredentials.CertificateFile, TlsCredentials.KeyFile })
        {
            string path = Path.Combine(directory, file);
            string contents = File.ReadAllText(path);
            File.WriteAllText(path, "nonsense");
            Assert.Contains(path, Assert.Throws<IOException>(() => TlsCredentials.Load(directory, [])).Message, StringComparison.Ordinal);
            File.Delete(path);
            Assert.Contains(path, Assert.Throws<IOException>(() => TlsCredentials.Load(directory, [])).Message, StringComparison.Ordinal);
            File.WriteAllText(path, contents);
        }

        Assert.Equal(["b.example"], TlsCredentials.Load(directory, ["b.example"]).Peers);
    }

    private static void Secure(Pair pair, TlsCredentials? source, TlsCredentials? destination)
    {
        pair.Source.Parameters = pair.Source.Parameters with { Tls = source };
        pair.Destination.Parameters = pair.Destination.Parameters with { Tls = destination };
    }

    private TlsCredentials Credentials(Authority issuer, string name, string[] peers, Authority? trusted = null, bool expired = false) =>
        TlsCredentials.Load(Write(issuer, trusted ?? issuer, name, expired), peers);

    private string Write(Authority issuer, Authority trusted, string name, bool expired)
    {
        string directory = Directory.CreateDirectory(_directory.File(Guid.NewGuid().ToString("n"))).FullName;
        (string certificate, string key) = issuer.Issue(name, expired);
        File.WriteAllText(Path.Combine(directory, TlsCredentials.AuthorityFile), trusted.Pem);
        File.WriteAllText(Path.Combine(directory, TlsCredentials.CertificateFile), certificate);
        File.WriteAllText(Path.Combine(directory, TlsCredentials.KeyFile), key);
        return directory;
    }

    /// <summary>A certificate authority of the test.</summary>
    private sealed class Authority : IDisposable
    {
        private readonly ECDsa _key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        private readonly X509Certificate2 _certificate;

        public Authority(string name)
        {
            var request = new CertificateRequest($"CN={name}", _key, HashAlgorithmName.SHA256);
            request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
            request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign, true));
            DateTimeOffset now = TimeProvider.System.GetUtcNow();
            _certificate = request.CreateSelfSigned(now.AddDays(-10), now.AddDays(10));
        }

        public string Pem => _certificate.ExportCertificatePem();

        public (string Certificate, string Key) Issue(string name, bool expired)
        {
            using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
            var request = new CertificateRequest($"CN={name}", key, HashAlgorithmName.SHA256);
            var names = new SubjectAlternativeNameBuilder();
            if (IPAddress.TryParse(name, out IPAddress? address))
                names.AddIpAddress(address);
            else
                names.AddDnsName(name);
            request.CertificateExtensions.Add(names.Build());
            request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, true));
            request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new("1.3.6.1.5.5.7.3.1"), new("1.3.6.1.5.5.7.3.2")], false));
            DateTimeOffset now = TimeProvider.System.GetUtcNow();
            byte[] serial = RandomNumberGenerator.GetBytes(8);
            serial[0] &= 0x7F;
            using X509Certificate2 certificate = request.Create(_certificate, now.AddDays(-5), expired ? now.AddDays(-1) : now.AddDays(5), serial);
            return (certificate.ExportCertificatePem(), key.ExportPkcs8PrivateKeyPem());
        }

        public void Dispose()
        {
            _certificate.Dispose();
            _key.Dispose();
        }
    }

    /// <summary>Passes one connection on and keeps the first bytes that the source sent.</summary>
    private sealed class Tap : IDisposable
    {
        private const int Kept = 64 << 10;

        private readonly Socket _listener;
        private readonly MigrationUri _target;
        private readonly MemoryStream _seen = new();
        private readonly Thread _thread;

        public Tap(string target)
        {
            _target = MigrationUri.Parse(target);
            _listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
            _listener.Listen();
            Address = $"tcp:127.0.0.1:{((IPEndPoint)_listener.LocalEndPoint!).Port}";
            _thread = new Thread(Run) { IsBackground = true };
            _thread.Start();
        }

        public string Address { get; }

        public byte[] FirstBytes()
        {
            Assert.True(_thread.Join(Pair.Patience));
            return _seen.ToArray();
        }

        public void Dispose()
        {
            _listener.Dispose();
            Assert.True(_thread.Join(Pair.Patience));
        }

        private void Run()
        {
            try
            {
                using Socket source = _listener.Accept();
                using MigrationChannel destination = MigrationConnector.Connect(_target, TimeProvider.System, default);
                using var from = new NetworkStream(source);
                var back = new Thread(() => Copy(destination, from)) { IsBackground = true };
                back.Start();
                Copy(from, destination);
                destination.FinishWriting();
                back.Join();
            }
            catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
            {
                // One of them has gone, or the test is over.
            }
        }

        private void Copy(Stream from, Stream to)
        {
            byte[] buffer = new byte[64 << 10];
            try
            {
                for (int count; (count = from.Read(buffer)) > 0;)
                {
                    if (to is MigrationChannel && _seen.Length < Kept)
                        _seen.Write(buffer, 0, count);
                    to.Write(buffer, 0, count);
                }
            }
            catch (IOException)
            {
                // Gone.
            }
        }
    }
}
