namespace Godwit.VfioUser.Tests;

/// <summary>docs/vfio-user.md names every command by its number, and tests that exist; the example is as short as it is said to be.</summary>
public sealed class ProtocolPageTests
{
    private static readonly string[] Rows = [.. File.ReadAllLines(Path.Combine(Root(), "docs", "vfio-user.md"))
        .SkipWhile(line => !line.StartsWith("| command ", StringComparison.Ordinal)).Skip(2).TakeWhile(line => line.StartsWith('|'))];

    [Fact]
    public void Every_command_has_its_row() => Assert.Equal(
        Enum.GetValues<Command>().Select(command => $"`{command.Name()}` {(int)command}"),
        Rows.Select(row => $"{Cell(row, 0)} {Cell(row, 1)}"));

    [Fact]
    public void Every_test_that_is_named_exists()
    {
        HashSet<string> classes = [.. typeof(ProtocolPageTests).Assembly.GetTypes().Select(type => type.Name)];
        foreach (string row in Rows)
        {
            string[] named = [.. Cell(row, 4).Split('`').Where((_, i) => i % 2 == 1)];
            Assert.NotEmpty(named);
            Assert.All(named, name => Assert.Contains(name, classes));
        }
    }

    [Fact]
    public void The_example_device_has_fewer_than_100_lines() => Assert.InRange(
        Directory.GetFiles(Path.Combine(Root(), "examples", "ChecksumDevice"), "*.cs").Sum(file => File.ReadLines(file).Count()), 10, 99);

    private static string Cell(string row, int index) => row.Split('|')[index + 1].Trim();

    private static string Root()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Godwit.slnx")))
                return folder.FullName;
        }
        throw new DirectoryNotFoundException($"Godwit.slnx is nowhere above {AppContext.BaseDirectory}");
    }
}
