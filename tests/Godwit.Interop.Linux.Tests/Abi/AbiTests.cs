using static Godwit.Interop.Linux.Tests.Abi.InteropTypes;

namespace Godwit.Interop.Linux.Tests.Abi;

/// <summary>The room's constants and structs are those of this machine's C headers, as its C compiler sees them.</summary>
public sealed class AbiTests
{
    [Fact]
    public void Constants_and_structs_are_those_of_the_headers()
    {
        string program = CCompiler.Program(
            Constants.Where(constant => !CHeaders.IsNew(constant.Owner, constant.Name)), CStructs.Where(item => !CHeaders.IsNew(item.Owner, item.Name)));
        Assert.Null(CCompiler.Complaints(program));
    }

    /// <summary>What Debian 12 does not declare yet, and once more all that it does declare.</summary>
    [Fact]
    public void Kernel_constants_and_structs_are_those_of_a_new_kernel()
    {
        string[] include = KernelHeaders.Find();
        string program = CCompiler.Program(
            Constants.Where(constant => CHeaders.KernelOwners.Contains(constant.Owner)), CStructs.Where(item => CHeaders.KernelOwners.Contains(item.Owner)));
        Assert.Null(CCompiler.Complaints(program, include));
    }

    /// <summary>Nothing is left out of the first test without need, and nothing that a test checks is left out of both.</summary>
    [Fact]
    public void What_is_said_to_be_new_exists_and_belongs_to_a_kernel_header()
    {
        HashSet<string> known =
        [
            .. Constants.Select(constant => constant.Id), .. CStructs.Select(item => $"{item.Owner}.{item.Name}"), .. CHeaders.KernelOwners,
        ];
        Assert.Empty(CHeaders.NewerThanDebian12.Except(known, StringComparer.Ordinal));
        Assert.DoesNotContain(CHeaders.NewerThanDebian12, name => !CHeaders.KernelOwners.Contains(name.Split('.')[0]));
    }

    [Fact]
    public void Every_struct_is_checked_or_said_to_be_ours()
    {
        string[] missing = [.. Structs
            .Where(type => IsCStruct(type) ? !CHeaders.ByType.ContainsKey(Owner(type)) : !CHeaders.ManagedStructs.Contains(type.Name))
            .Select(type => type.FullName!)];
        Assert.True(missing.Length == 0,
            $"Add the C header of these to CHeaders.ByType, or them to ManagedStructs: {string.Join(", ", missing)}");
    }

    [Fact]
    public void Every_constant_with_a_C_name_is_checked()
    {
        string[] missing = [.. Constants
            .Where(constant => !CHeaders.ByType.ContainsKey(constant.Owner) && !CHeaders.NotInHeaders.ContainsKey(constant.Id))
            .Select(constant => constant.Id)];
        Assert.True(missing.Length == 0, $"Add the C header of these to CHeaders.ByType: {string.Join(", ", missing)}");
    }

    [Fact]
    public void The_lists_name_only_what_exists()
    {
        HashSet<string> owners = [.. Constants.Select(constant => constant.Owner), .. CStructs.Select(item => item.Owner)];
        Assert.Empty(CHeaders.ByType.Keys.Except(owners, StringComparer.Ordinal));
        Assert.Empty(CHeaders.NotInHeaders.Keys.Except(Constants.Select(constant => constant.Id), StringComparer.Ordinal));
        Assert.Empty(CHeaders.ManagedStructs.Except(Structs.Select(type => type.Name), StringComparer.Ordinal));
    }

    /// <summary>The check can fail: each kind of wrong mirror is complained of by name.</summary>
    [Fact]
    public void Wrong_mirrors_are_found()
    {
        CStruct right = Assert.Single(CStructs, item => item.Name == "pollfd");
        CConstant poll = Assert.Single(Constants, constant => constant.Id == "poll.POLLHUP");
        Assert.Null(CCompiler.Complaints(CCompiler.Program([poll], [right])));
        AssertComplaint("poll.POLLHUP", [poll with { Value = 3 }], []);
        AssertComplaint("sizeof pollfd\"", [], [right with { Size = 12 }]);
        AssertComplaint("offset of pollfd.revents", [], [Change(right, "revents", field => field with { Offset = 4 })]);
        AssertComplaint("sizeof pollfd.events", [], [Change(right, "events", field => field with { Size = 4 })]);
        AssertComplaint("nonsense", [], [Change(right, "events", field => field with { Name = "nonsense" })]);
    }

    private static void AssertComplaint(string about, CConstant[] constants, CStruct[] structs)
    {
        string? complaints = CCompiler.Complaints(CCompiler.Program(constants, structs));
        Assert.NotNull(complaints);
        Assert.Contains(about, complaints, StringComparison.Ordinal);
    }

    private static CStruct Change(CStruct item, string name, Func<CField, CField> change) =>
        item with { Fields = [.. item.Fields.Select(field => field.Name == name ? change(field) : field)] };
}
