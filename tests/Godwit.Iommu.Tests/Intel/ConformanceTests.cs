using System.Reflection;
using System.Text.RegularExpressions;
using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Tests;

/// <summary>docs/vtd.md says of every part of the specification what the unit does with it; this holds the page to the source.</summary>
public partial class ConformanceTests
{
    private static readonly string Page = File.ReadAllText(Find());

    [Fact]
    public void ThePageNamesEveryRegister() => AssertNamed(
        typeof(RegisterOffsets).GetFields(BindingFlags.Static | BindingFlags.NonPublic).Where(field => field.IsLiteral).Select(field => field.Name));

    [Fact]
    public void ThePageNamesEveryCommand() => AssertNamed(
        typeof(GlobalCommandBits).GetFields(BindingFlags.Static | BindingFlags.NonPublic)
            .Select(field => field.Name).Where(name => !name.StartsWith("Kept", StringComparison.Ordinal)));

    [Fact]
    public void ThePageNamesEveryDescriptor() => AssertNamed(Enum.GetNames<DescriptorType>());

    [Fact]
    public void ThePageNamesEveryQueueError() => AssertNamed(Enum.GetNames<QueueErrorInfo>());

    [Fact]
    public void ThePageNamesEveryTableMode() => AssertNamed([.. Enum.GetNames<TableMode>(), .. Enum.GetNames<PasidTranslation>()]);

    /// <summary>With its code, in one row.</summary>
    [Fact]
    public void ThePageNamesEveryFaultReason()
    {
        foreach (FaultReason reason in Enum.GetValues<FaultReason>().Where(reason => reason != FaultReason.None))
            Assert.Contains($"| 0x{(int)reason:X2} | `{reason}` |", Page, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryTestThatThePageNamesIsThere()
    {
        var tests = typeof(ConformanceTests).Assembly.GetTypes()
            .SelectMany(type => type.GetMethods())
            .Where(method => method.GetCustomAttributes<FactAttribute>(inherit: true).Any())
            .Select(method => $"{method.DeclaringType!.Name}.{method.Name}")
            .ToHashSet(StringComparer.Ordinal);
        string[] named = [.. TestName().Matches(Page).Select(match => match.Groups["name"].Value).Distinct(StringComparer.Ordinal)];
        Assert.True(named.Length > 40, $"only {named.Length} tests are named");
        Assert.DoesNotContain(named, name => !tests.Contains(name));
    }

    /// <summary>Every row of a table with a test column names one.</summary>
    [Fact]
    public void EveryRowHasATest()
    {
        bool inTable = false;
        foreach (string line in Page.Split('\n'))
        {
            if (line.EndsWith("| Test |", StringComparison.Ordinal))
                inTable = true;
            else if (!line.StartsWith('|'))
                inTable = false;
            else if (inTable && !line.StartsWith("|---", StringComparison.Ordinal))
                Assert.Matches(TestName(), line[(line.TrimEnd('|').LastIndexOf('|') + 1)..]);
        }
    }

    private static void AssertNamed(IEnumerable<string> names) =>
        Assert.DoesNotContain(names, name => !Page.Contains($"`{name}`", StringComparison.Ordinal));

    private static string Find()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            string path = Path.Combine(folder.FullName, "docs", "vtd.md");
            if (File.Exists(path))
                return path;
        }

        throw new FileNotFoundException($"docs/vtd.md is nowhere above {AppContext.BaseDirectory}");
    }

    [GeneratedRegex(@"`(?<name>\w+Tests\.\w+)`", RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture)]
    private static partial Regex TestName();
}
