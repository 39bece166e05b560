using System.Net;
using System.Net.Sockets;
using Godwit.Machine;
using Godwit.Migration;

namespace Godwit.Monitor.Tests;

public sealed class MetricsTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    [Fact]
    public async Task A_machine_is_scraped_in_Prometheus_text()
    {
        using VirtualMachine machine = VirtualMachine.Build(
            new MachineConfig { Name = "a \"b\" \\", MemoryBytes = 64 << 20 }, TimeProvider.System);
        string address = $"127.0.0.1:{FreePort()}";
        await using MetricsServer server = MetricsServer.Start(machine, address);
        using var client = new HttpClient();
        string[] before = await ScrapeAsync(client, address);
        Assert.Contains("# TYPE godwit_machine_running gauge", before);
        Assert.Contains("godwit_machine_running{machine=\"a \\\"b\\\" \\\\\"} 0", before);
        Assert.Contains("godwit_migrations_total{machine=\"a \\\"b\\\" \\\\\",outcome=\"failed\"} 0", before);
        Assert.Contains(before, line => line.StartsWith("godwit_migration_dirty_pages_per_second{", StringComparison.Ordinal) && line.Contains("source=\"device\"", StringComparison.Ordinal));
        // Each family is described once, before its samples.
        Assert.Equal(before.Count(line => line.StartsWith("# TYPE ", StringComparison.Ordinal)),
            before.Where(line => line.StartsWith("# TYPE ", StringComparison.Ordinal)).Distinct(StringComparer.Ordinal).Count());

        machine.Start();
        using var ended = new ManualResetEventSlim();
        machine.Migration.StateChanged += state =>
        {
            if (state == MigrationState.Failed)
            {
                ended.Set();
            }
        };
        machine.Migration.Start("unix:/no/such/socket");
        Assert.True(ended.Wait(Patience));
        string[] after = await ScrapeAsync(client, address);
        Assert.Contains("godwit_machine_running{machine=\"a \\\"b\\\" \\\\\"} 1", after);
        Assert.Contains("godwit_migrations_total{machine=\"a \\\"b\\\" \\\\\",outcome=\"failed\"} 1", after);
        Assert.Contains(after, line => line.StartsWith("godwit_migration_ram_total_bytes{", StringComparison.Ordinal) && line.EndsWith(" 67108864", StringComparison.Ordinal));
        Assert.Equal(HttpStatusCode.MethodNotAllowed, (await client.PostAsync($"http://{address}/metrics", null)).StatusCode);
    }

    [Theory]
    [InlineData("0.0.0.0")]
    [InlineData("[::]")]
    public async Task Every_address_of_the_host_is_served(string any)
    {
        using VirtualMachine machine = VirtualMachine.Build(new MachineConfig { Name = "m", MemoryBytes = 64 << 20 }, TimeProvider.System);
        int port = FreePort();
        await using MetricsServer server = MetricsServer.Start(machine, $"{any}:{port}");
        using var client = new HttpClient();
        // All of 127.0.0.0/8 is this host; a listener for one name or address would answer 404 to the others.
        foreach (string address in new[] { "127.0.0.1", "127.0.0.2", "localhost" })
        {
            Assert.Contains("godwit_machine_running{machine=\"m\"} 0", await ScrapeAsync(client, $"{address}:{port}"));
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("9100")]
    [InlineData("localhost:")]
    [InlineData("localhost:0")]
    [InlineData("localhost:65536")]
    [InlineData("a b:9100")]
    public void An_address_that_is_none_is_named(string address)
    {
        using VirtualMachine machine = VirtualMachine.Build(new MachineConfig { Name = "m", MemoryBytes = 64 << 20 }, TimeProvider.System);
        Assert.Contains($"'{address}'", Assert.Throws<FormatException>(() => MetricsServer.Start(machine, address)).Message, StringComparison.Ordinal);
    }

    private static async Task<string[]> ScrapeAsync(HttpClient client, string address)
    {
        using HttpResponseMessage response = await client.GetAsync($"http://{address}/metrics");
        Assert.Equal("text/plain", response.Content.Headers.ContentType!.MediaType);
        return (await response.Content.ReadAsStringAsync()).Split('\n');
    }

    private static int FreePort()
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.LocalEndPoint!).Port;
    }
}
