namespace Godwit.Migration.Tests;

public sealed class MigrationUriTests
{
    [Theory]
    [InlineData("unix:/tmp/a.sock")]
    [InlineData("unix:relative path")]
    [InlineData("tcp:localhost:4444")]
    [InlineData("tcp:127.0.0.1:0")]
    [InlineData("tcp:[::1]:65535")]
    [InlineData("fd:7")]
    [InlineData("file:saved machine")]
    [InlineData("exec:ssh host socat - UNIX:a | cat")]
    public void What_is_read_is_written_the_same(string text) => Assert.Equal(text, MigrationUri.Parse(text).ToString());

    [Fact]
    public void The_parts_are_taken_apart()
    {
        Assert.Equal(new UnixMigrationUri("/a:b"), MigrationUri.Parse("unix:/a:b"));
        Assert.Equal(new TcpMigrationUri("::1", 12), MigrationUri.Parse("tcp:[::1]:12"));
        Assert.Equal(new TcpMigrationUri("host", 12), MigrationUri.Parse("tcp:host:12"));
    }

    [Theory]
    [InlineData("", "unix:PATH")]
    [InlineData("ftp:cat", "exec:COMMAND")]
    [InlineData("exec:", "no command")]
    [InlineData("file:", "no path")]
    [InlineData("exec: ", "no command")]
    [InlineData("exec:a\0b", "zero byte")]
    [InlineData("fd:", "descriptor is ''")]
    [InlineData("fd:-1", "descriptor is '-1'")]
    [InlineData("fd:x", "descriptor is 'x'")]
    [InlineData("fd:2147483648", "2147483647")]
    [InlineData("UNIX:/a", "unix:PATH")]
    [InlineData("unix:", "no path")]
    [InlineData("unix:a\0b", "zero byte")]
    [InlineData("tcp:host", "no port")]
    [InlineData("tcp:[::1]", "no port")]
    [InlineData("tcp::4444", "no host")]
    [InlineData("tcp:[]:4444", "no host")]
    [InlineData("tcp:::1:4444", "brackets")]
    [InlineData("tcp:host:", "port is ''")]
    [InlineData("tcp:host:65536", "65535")]
    [InlineData("tcp:host:-1", "port is '-1'")]
    [InlineData("tcp:host: 1", "port is ' 1'")]
    public void What_is_wrong_is_said(string text, string says) =>
        Assert.Contains(says, Assert.Throws<FormatException>(() => MigrationUri.Parse(text)).Message, StringComparison.Ordinal);

    [Fact]
    public void A_path_is_as_long_as_the_kernel_takes()
    {
        MigrationUri.Parse("unix:" + new string('a', 107));
        Assert.Contains("108 bytes", Assert.Throws<FormatException>(() => MigrationUri.Parse("unix:" + new string('a', 108))).Message, StringComparison.Ordinal);
        Assert.Contains("at most 107", Assert.Throws<FormatException>(() => MigrationUri.Parse("unix:" + new string('ä', 54))).Message, StringComparison.Ordinal);
    }
}
