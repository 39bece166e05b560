using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;

namespace Godwit.Architecture.Tests;

/// <summary>The table of rooms in docs/architecture.md: who may know whom.</summary>
public sealed class ReferenceGraphTests
{
    private const string Prefix = "Godwit.";

    /// <summary>What each room may name in its project file. References point down only.</summary>
    private static readonly Dictionary<string, string[]> MayReference = new(StringComparer.Ordinal)
    {
        ["Interop.Linux"] = [],
        ["Memory"] = ["Interop.Linux"],
        ["Pci"] = ["Memory"],
        ["Iommu"] = ["Pci"],
        ["Migration"] = ["Memory"],
        ["VfioUser"] = ["Interop.Linux"],
        ["Vfio"] = ["Pci", "Migration", "VfioUser"],
        ["Devices"] = ["VfioUser"],
        ["Machine"] = ["Interop.Linux", "Memory", "Pci", "Iommu", "Migration", "VfioUser", "Vfio"],
        ["Monitor"] = ["Machine"],
        ["Cli"] = ["Monitor", "Devices"],
    };

    [Fact]
    public void There_are_no_rooms_but_these() =>
        Assert.Equal(MayReference.Keys.Select(room => Prefix + room).Order(StringComparer.Ordinal), Repository.Rooms);

    [Fact]
    public void Project_files_reference_what_the_table_says()
    {
        foreach ((string room, string[] may) in MayReference)
        {
            IEnumerable<string> actual = Repository.ProjectReferences($"src/{Prefix}{room}/{Prefix}{room}.csproj");
            Assert.True(
                actual.Order(StringComparer.Ordinal).SequenceEqual(may.Select(each => Prefix + each).Order(StringComparer.Ordinal), StringComparer.Ordinal),
                $"{room} references {string.Join(", ", actual)}; it may reference {string.Join(", ", may)}");
        }
    }

    [Fact]
    public void Built_assemblies_know_only_rooms_below_them()
    {
        foreach ((string room, _) in MayReference)
        {
            HashSet<string> below = Below(room);
            foreach (string referenced in AssemblyReferences(room))
            {
                Assert.True(below.Contains(referenced), $"the assembly of {room} references {referenced}, which is not below it");
            }
        }
    }

    [Fact]
    public void The_graph_has_no_circle()
    {
        foreach (string room in MayReference.Keys)
        {
            Assert.DoesNotContain(room, Below(room));
        }
    }

    [Fact]
    public void Every_room_has_its_tests_and_the_solution_has_both()
    {
        string solution = File.ReadAllText(Path.Combine(Repository.Root, "Godwit.slnx"));
        foreach (string room in Repository.Rooms)
        {
            string project = $"src/{room}/{room}.csproj";
            string tests = $"tests/{room}.Tests/{room}.Tests.csproj";
            Assert.True(File.Exists(Path.Combine(Repository.Root, tests)), $"{room} has no {tests}");
            Assert.Contains($"\"{project}\"", solution, StringComparison.Ordinal);
            Assert.Contains($"\"{tests}\"", solution, StringComparison.Ordinal);
        }
    }

    private static HashSet<string> Below(string room)
    {
        var below = new HashSet<string>(StringComparer.Ordinal);
        var open = new Queue<string>(MayReference[room]);
        while (open.TryDequeue(out string? next))
        {
            if (below.Add(next))
            {
                foreach (string further in MayReference[next])
                {
                    open.Enqueue(further);
                }
            }
        }

        return below;
    }

    private static List<string> AssemblyReferences(string room)
    {
        string file = Path.Combine(AppContext.BaseDirectory, room == "Cli" ? "godwit.dll" : $"{Prefix}{room}.dll");
        using var stream = File.OpenRead(file);
        using var image = new PEReader(stream);
        MetadataReader metadata = image.GetMetadataReader();
        return
        [
            .. metadata.AssemblyReferences
                .Select(reference => metadata.GetString(metadata.GetAssemblyReference(reference).Name))
                .Where(name => name.StartsWith(Prefix, StringComparison.Ordinal))
                .Select(name => name[Prefix.Length..]),
        ];
    }
}
