using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace Godwit.Interop.Linux.Tests.Abi;

/// <summary>What the interop room declares, found by reflection: constants and structs, public or not.</summary>
internal static partial class InteropTypes
{
    internal sealed record CConstant(string Owner, string Name, Int128 Value)
    {
        internal string Id => $"{Owner}.{Name}";
    }

    internal sealed record CField(string Name, long Offset, long Size);

    internal sealed record CStruct(string Owner, string Name, long Size, IReadOnlyList<CField> Fields)
    {
        /// <summary>The tag in C; a trailing _t tells it from a function of that name here.</summary>
        internal string Tag => Name.EndsWith("_t", StringComparison.Ordinal) ? Name[..^2] : Name;
    }

    private const BindingFlags Everything =
        BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Static | BindingFlags.Instance | BindingFlags.DeclaredOnly;

    private static IEnumerable<Type> Types => typeof(FileDescriptor).Assembly.GetTypes()
        .Where(type => type.GetCustomAttribute<CompilerGeneratedAttribute>() is null && !type.Name.Contains('<')
            && type.Namespace == typeof(FileDescriptor).Namespace);

    /// <summary>Constants that have C names (capitals, digits and underscores), and the members of enums that have.</summary>
    internal static IReadOnlyList<CConstant> Constants { get; } =
        [.. from type in Types
            from field in type.GetFields(Everything)
            where field.IsLiteral && CName().IsMatch(field.Name)
            select new CConstant(Owner(type), field.Name, Widen(field.GetRawConstantValue()!))];

    /// <summary>Every struct.</summary>
    internal static IReadOnlyList<Type> Structs { get; } = [.. Types.Where(type => type is { IsValueType: true, IsEnum: false })];

    /// <summary>Structs that have C names.</summary>
    internal static IReadOnlyList<CStruct> CStructs { get; } = [.. Structs.Where(IsCStruct).Select(Describe)];

    /// <summary>C names its structs without capitals.</summary>
    internal static bool IsCStruct(Type type) => !type.Name.Any(char.IsUpper);

    /// <summary>The type in <see cref="CHeaders.ByType"/> that stands for this one.</summary>
    internal static string Owner(Type type) =>
        type.DeclaringType is { } outer && !CHeaders.ByType.ContainsKey(type.Name) ? Owner(outer) : CHeaders.FamilyOf(type.Name);

    private static CStruct Describe(Type type) => new(Owner(type), type.Name, Marshal.SizeOf(type),
        [.. type.GetFields(Everything & ~BindingFlags.Static)
            .Select(field => new CField(field.Name, (long)Marshal.OffsetOf(type, field.Name), SizeOf(field)))]);

    private static long SizeOf(FieldInfo field)
    {
        if (field.FieldType.IsPointer)
            return IntPtr.Size;
        if (field.GetCustomAttribute<FixedBufferAttribute>() is { } buffer)
            return (long)buffer.Length * Marshal.SizeOf(buffer.ElementType);
        return Marshal.SizeOf(field.FieldType.IsEnum ? field.FieldType.GetEnumUnderlyingType() : field.FieldType);
    }

    private static Int128 Widen(object value) => value is ulong wide ? wide : Convert.ToInt64(value);

    [GeneratedRegex("^[A-Z][A-Z0-9]*(_[A-Z0-9v]+)*$", RegexOptions.ExplicitCapture, 1000)]
    private static partial Regex CName();
}
