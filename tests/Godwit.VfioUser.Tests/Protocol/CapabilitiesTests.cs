using System.Text;

namespace Godwit.VfioUser.Tests;

public sealed class CapabilitiesTests
{
    [Fact]
    public void Qemus_request_is_understood()
    {
        Capabilities parsed = Parse(RawPeer.QemuVersionJson);
        Assert.Equal(
            new Capabilities { MaxMessageFds = 16, MaxTransfer = 1048576, PageSizes = 4096, MaxDmaMaps = 65535, MigrationPageSize = 4096, WriteMultiple = true },
            parsed);
    }

    [Fact]
    public void The_largest_text_of_ours_fits_qemus_buffer()
    {
        byte[] text = new Capabilities
        {
            MaxMessageFds = WireLimits.MaxMessageFds,
            MaxTransfer = WireLimits.MaxTransfer,
            PageSizes = WireLimits.PageSize,
            MaxDmaMaps = WireLimits.MaxDmaMaps,
            MigrationPageSize = WireLimits.PageSize,
            WriteMultiple = true,
        }.Format();
        Assert.True(4 + text.Length < 198, $"{4 + text.Length} bytes");
        Assert.Equal(0, text[^1]);
    }

    [Fact]
    public void What_is_written_is_read()
    {
        var all = new Capabilities { MaxMessageFds = 7, MaxTransfer = 65536, PageSizes = 0x201000, MaxDmaMaps = 3, MigrationPageSize = 8192, WriteMultiple = true, TwinSocket = new TwinSocketCapability(true, 3) };
        Assert.Equal(all, Capabilities.Parse(all.Format()));
        Assert.Equal(new Capabilities(), Capabilities.Parse(new Capabilities().Format()));
    }

    [Theory]
    [InlineData("""{}""")]
    [InlineData("""{"capabilities":{}}""")]
    [InlineData("""{"unknown":[1,{"x":null}],"capabilities":{"foo":"bar"}}""")]
    [InlineData("""{"capabilities":{"migration":{}}}""")]
    public void Absent_and_unknown_names_mean_defaults(string json) => Assert.Equal(new Capabilities(), Parse(json));

    [Theory]
    [InlineData("""{"capabilities":{"twin_socket":{}}}""", false, null)]
    [InlineData("""{"capabilities":{"twin_socket":{"supported":false,"fd_index":0}}}""", false, 0)]
    [InlineData("""{"capabilities":{"twin_socket":{"colour":[1],"fd_index":7,"supported":true}}}""", true, 7)]
    public void A_twin_socket_is_understood(string json, bool supported, int? index) => Assert.Equal(new TwinSocketCapability(supported, index), Parse(json).TwinSocket);

    [Fact]
    public void No_text_at_all_means_defaults() => Assert.Equal(new Capabilities(), Capabilities.Parse([]));

    [Theory]
    [InlineData("", "malformed")]
    [InlineData("[]", "kind StartObject")]
    [InlineData("{", "malformed")]
    [InlineData("""{"capabilities":[]}""", "capabilities")]
    [InlineData("""{"capabilities":null}""", "capabilities")]
    [InlineData("""{"capabilities":{}} x""", "malformed")]
    [InlineData("""{"capabilities":{}}{}""", "malformed")]
    [InlineData("""{"capabilities":{"max_msg_fds":"8"}}""", "max_msg_fds")]
    [InlineData("""{"capabilities":{"max_msg_fds":-1}}""", "max_msg_fds")]
    [InlineData("""{"capabilities":{"max_msg_fds":1025}}""", "max_msg_fds")]
    [InlineData("""{"capabilities":{"max_msg_fds":1.5}}""", "max_msg_fds")]
    [InlineData("""{"capabilities":{"max_data_xfer_size":0}}""", "max_data_xfer_size")]
    [InlineData("""{"capabilities":{"max_data_xfer_size":4095}}""", "4096")]
    [InlineData("""{"capabilities":{"max_data_xfer_size":1e30}}""", "1e30")]
    [InlineData("""{"capabilities":{"max_dma_maps":-1}}""", "max_dma_maps")]
    [InlineData("""{"capabilities":{"pgsizes":0}}""", "pgsizes")]
    [InlineData("""{"capabilities":{"pgsizes":true}}""", "pgsizes")]
    [InlineData("""{"capabilities":{"write_multiple":1}}""", "write_multiple")]
    [InlineData("""{"capabilities":{"migration":4096}}""", "migration")]
    [InlineData("""{"capabilities":{"twin_socket":true}}""", "twin_socket")]
    [InlineData("""{"capabilities":{"twin_socket":{"supported":1}}}""", "twin_socket.supported")]
    [InlineData("""{"capabilities":{"twin_socket":{"supported":true,"fd_index":-1}}}""", "twin_socket.fd_index")]
    [InlineData("""{"capabilities":{"twin_socket":{"fd_index":"0"}}}""", "twin_socket.fd_index")]
    [InlineData("""{"capabilities":{"migration":{"pgsize":4095}}}""", "migration.pgsize")]
    [InlineData("""{"capabilities":{"max_msg_fds":1,"max_msg_fds":2}}""", "max_msg_fds twice")]
    [InlineData("""{"capabilities":{},"capabilities":{}}""", "capabilities twice")]
    [InlineData("""{"capabilities":{"\ud800":1}}""", "malformed")]
    public void Bad_values_are_named(string json, string expected)
    {
        var e = Assert.Throws<VfioUserProtocolException>(() => Parse(json));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x1000UL, 0x1000UL)]
    [InlineData(0x40201000UL, 0x1000UL)]
    [InlineData(0x40200000UL, 0x200000UL)]
    [InlineData(1UL << 63, 1UL << 63)]
    [InlineData(0x800UL, 0x800UL)]
    public void The_smallest_page_is_the_lowest_bit(ulong sizes, ulong smallest) =>
        Assert.Equal(smallest, Parse($$$"""{"capabilities":{"pgsizes":{{{sizes}}}}}""").SmallestPage);

    [Fact]
    public void Text_must_end_with_its_only_nul()
    {
        Assert.Throws<VfioUserProtocolException>(() => Capabilities.Parse("{}"u8));
        Assert.Throws<VfioUserProtocolException>(() => Capabilities.Parse("{}\0\0"u8));
        Assert.Throws<VfioUserProtocolException>(() => Capabilities.Parse(Encoding.UTF8.GetBytes(new string(' ', 5000) + "{}\0")));
    }

    private static Capabilities Parse(string json) => Capabilities.Parse(Encoding.UTF8.GetBytes(json + "\0"));
}
